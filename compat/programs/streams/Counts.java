// A Kafka Streams application with state, exactly once (exactly_once_v2), and what feeds and reads it. Run by `cargo xtask compat`,
// which kills it and its broker, and demands that its answer is the one of a single pass over the input.
//
// Record i has the key k(i mod 50), the value i mod 1000 and the time BASE + 10 ms × i. The application counts the records of each
// key, and counts and adds up the values of each class (value mod 7) in windows of a minute: the second needs a repartition.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;

public class Counts {
    static final String INPUT = "counts-input", KEYS = "counts-keys", WINDOWS = "counts-windows";
    static final long WINDOW_MS = 60_000, READ_MS_MAX = 180_000;

    public static void main(String[] args) throws Exception {
        String bootstrap = args[1];
        long base = Long.parseLong(args[2]);
        int records = Integer.parseInt(args[3]);
        switch (args[0]) {
            case "produce" -> produce(bootstrap, base, records, Integer.parseInt(args[4]));
            case "run" -> application(bootstrap, base, args[4]);
            case "read" -> print(read(bootstrap, records));
            case "expect" -> print(expect(records));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static String key(int i) { return "k" + i % 50; }

    static String value(int i) { return String.valueOf(i % 1000); }

    static long offsetMs(int i) { return 10L * i; }

    static String classOf(String value) { return "c" + Long.parseLong(value) % 7; }

    static String add(String sums, String value) {
        String[] parts = sums.split("/");
        return Long.parseLong(parts[0]) + 1 + "/" + (Long.parseLong(parts[1]) + Long.parseLong(value));
    }

    static void produce(String bootstrap, long base, int records, int perSecond) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(INPUT, KEYS, WINDOWS).stream().map(name -> new NewTopic(name, 4, (short) 1)).toList()).all().get();
        }
        // Idempotent, so a broker that dies has it send again, and no record stands there twice.
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "acks", "all");
        long start = System.nanoTime();
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            List<java.util.concurrent.Future<?>> sent = new ArrayList<>();
            for (int i = 0; i < records; i++) {
                sent.add(producer.send(new ProducerRecord<>(INPUT, null, base + offsetMs(i), key(i), value(i))));
                long ahead = start + 1_000_000_000L * i / perSecond - System.nanoTime();
                if (ahead > 5_000_000) Thread.sleep(ahead / 1_000_000);
            }
            for (var ack : sent) ack.get();
        }
    }

    static void application(String bootstrap, long base, String state) {
        StreamsBuilder builder = new StreamsBuilder();
        AtomicLong seen = new AtomicLong();
        KStream<String, String> input = builder.stream(INPUT, Consumed.with(Serdes.String(), Serdes.String()));
        input.peek((key, value) -> { // how far this process is; whoever runs it kills by that
            if (seen.incrementAndGet() % 500 == 0) System.out.println(seen);
        });
        input.groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
            .count()
            .toStream()
            .mapValues(String::valueOf)
            .to(KEYS, Produced.with(Serdes.String(), Serdes.String()));
        input.selectKey((key, value) -> classOf(value))
            .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMillis(WINDOW_MS), Duration.ofDays(1)))
            .aggregate(() -> "0/0", (key, value, sums) -> add(sums, value), Materialized.with(Serdes.String(), Serdes.String()))
            .toStream((windowed, sums) -> windowed.key() + "@" + (windowed.window().start() - base) / WINDOW_MS)
            .to(WINDOWS, Produced.with(Serdes.String(), Serdes.String()));
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("application.id", "counts");
        config.put("processing.guarantee", "exactly_once_v2");
        config.put("state.dir", state);
        config.put("num.stream.threads", 2);
        config.put("consumer.session.timeout.ms", 6000); // who was killed is missed soon
        config.put("consumer.heartbeat.interval.ms", 500);
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
    }

    // The last value of each row, once the rows of both topics add up to all the records, or time is up.
    static SortedMap<String, String> read(String bootstrap, int records) {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed", "auto.offset.reset", "earliest");
        SortedMap<String, String> rows = new TreeMap<>();
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (String topic : List.of(KEYS, WINDOWS)) for (int i = 0; i < 4; i++) all.add(new TopicPartition(topic, i));
            consumer.assign(all);
            long deadline = System.currentTimeMillis() + READ_MS_MAX;
            while (System.currentTimeMillis() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> rows.put(record.key(), record.value()));
                long keys = rows.entrySet().stream().filter(row -> row.getKey().startsWith("k")).mapToLong(row -> count(row)).sum();
                long windows = rows.entrySet().stream().filter(row -> row.getKey().startsWith("c")).mapToLong(row -> count(row)).sum();
                boolean isAtTheEnd = consumer.endOffsets(all).entrySet().stream().allMatch(end -> consumer.position(end.getKey()) >= end.getValue());
                if (keys >= records && windows >= records && isAtTheEnd) break;
            }
        }
        return rows;
    }

    static long count(Map.Entry<String, String> row) { return Long.parseLong(row.getValue().split("/")[0]); }

    static SortedMap<String, String> expect(int records) {
        SortedMap<String, String> rows = new TreeMap<>();
        for (int i = 0; i < records; i++) {
            rows.merge(key(i), "1", (count, one) -> String.valueOf(Long.parseLong(count) + 1));
            String row = classOf(value(i)) + "@" + offsetMs(i) / WINDOW_MS;
            rows.put(row, add(rows.getOrDefault(row, "0/0"), value(i)));
        }
        return rows;
    }

    static void print(SortedMap<String, String> rows) { rows.forEach((row, value) -> System.out.println(row + " " + value)); }
}
