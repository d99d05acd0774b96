// Transactional clients that write down what they do and see, for the checker of `cargo xtask histories`. What the lines
// mean is told in crates/sim/src/history/mod.rs. Run from source: java -cp 'jars/*' Histories.java work|final BOOTSTRAP NAME FILE
//
// `work` goes on until it is killed: producers, loops that read, process and write, and readers of both isolations. Whoever
// is fenced begins anew as another client, under the same transactional id. `final` reads everything there is, and ends.

import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Histories {
    static final int PARTITIONS = 4;
    static final int RECORDS_MAX = 6;
    static final String GROUP = "java";
    static final Duration POLL = Duration.ofMillis(200);
    static final Duration FINAL_MAX = Duration.ofSeconds(180);

    static String bootstrap;
    static String name;
    static FileOutputStream file;

    public static void main(String[] args) throws Exception {
        bootstrap = args[1];
        name = args[2];
        file = new FileOutputStream(args[3], true);
        if (args[0].equals("final")) {
            boolean isWell = finalRead("read_committed") & finalRead("read_uncommitted");
            Runtime.getRuntime().halt(isWell ? 0 : 1);
        }
        for (int at = 0; at < 2; at++) {
            String producer = "producer-" + at, loop = "loop-" + at;
            forEver(producer, incarnation -> produce("java-" + producer, incarnation));
            forEver(loop, incarnation -> loop("java-" + loop, incarnation));
        }
        forEver("reader", incarnation -> read("read_committed", incarnation));
        forEver("peeker", incarnation -> read("read_uncommitted", incarnation));
    }

    interface Life { void live(String client) throws Exception; }

    static void forEver(String role, Life life) {
        Thread thread = new Thread(() -> {
            for (int incarnation = 0; ; incarnation++) {
                try {
                    life.live(name + "/" + role + "." + incarnation);
                } catch (KafkaException error) {
                    System.err.println(Instant.now() + " " + role + "." + incarnation + ": " + error);
                    pause(200, 2000);
                } catch (Throwable error) {
                    // What is wrong with this program shall be seen.
                    error.printStackTrace();
                    Runtime.getRuntime().halt(3);
                }
            }
        });
        thread.start();
    }

    // ---- what is written down

    static final String OK = "ok", UNKNOWN = "unknown";

    /** Before this returns the line is the system's, and outlives the process. */
    static void note(String client, String op, String fields, String outcome) {
        synchronized (file) {
            long now = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
            String line = "{\"client\":\"" + client + "\",\"op\":\"" + op + "\"" + fields
                    + ",\"outcome\":\"" + outcome + "\",\"at_us\":" + now + "}\n";
            try {
                file.write(line.getBytes(StandardCharsets.UTF_8));
            } catch (IOException error) {
                error.printStackTrace();
                Runtime.getRuntime().halt(3);
            }
        }
    }

    static String partition(TopicPartition at) { return ",\"partition\":\"" + at + "\""; }

    static void noteSend(String client, TopicPartition to, String value, String more, String outcome) {
        note(client, "send", partition(to) + ",\"value\":\"" + value + "\"" + more, outcome);
    }

    static void noteOffset(String client, String op, TopicPartition at, long offset) {
        note(client, op, ",\"group\":\"" + GROUP + "\"" + partition(at) + ",\"offset\":" + offset, OK);
    }

    static void notePoll(String client, TopicPartition at, long from, long next, List<ConsumerRecord<String, String>> records,
            String isolation) {
        StringBuilder values = new StringBuilder();
        for (ConsumerRecord<String, String> record : records) {
            values.append(values.isEmpty() ? "" : ",").append("[").append(record.offset()).append(",\"")
                    .append(record.value()).append("\"]");
        }
        note(client, "poll", partition(at) + ",\"offset\":" + from + ",\"next\":" + next + ",\"values\":[" + values
                + "],\"isolation\":\"" + isolation + "\"", OK);
    }

    // ---- clients

    static KafkaProducer<String, String> producer(String id) {
        Properties properties = new Properties();
        properties.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, id);
        properties.put(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 8000);
        properties.put(ProducerConfig.REQUEST_TIMEOUT_MS_CONFIG, 5000);
        properties.put(ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, 20000);
        properties.put(ProducerConfig.MAX_BLOCK_MS_CONFIG, 20000);
        properties.put(ProducerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 500);
        return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String isolation, String group) {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, isolation);
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(ConsumerConfig.REQUEST_TIMEOUT_MS_CONFIG, 5000);
        properties.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6000);
        properties.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 1000);
        properties.put(ConsumerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 500);
        if (group != null) properties.put(ConsumerConfig.GROUP_ID_CONFIG, group);
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    static void produce(String id, String client) {
        try (KafkaProducer<String, String> producer = producer(id)) {
            producer.initTransactions();
            for (int number = 0; ; number++) {
                note(client, "begin", "", OK);
                producer.beginTransaction();
                int records = random(1, RECORDS_MAX);
                for (int at = 0; at < records; at++) {
                    send(producer, client, new TopicPartition("in", random(0, PARTITIONS - 1)),
                            client + ":" + number + ":" + at, "");
                }
                // Longer than a transaction may last.
                if (random(1, 300) == 1) pause(9000, 12000);
                end(producer, client);
                pause(0, 30);
            }
        }
    }

    static void send(KafkaProducer<String, String> producer, String client, TopicPartition to, String value, String source) {
        noteSend(client, to, value, source, UNKNOWN);
        producer.send(new ProducerRecord<>(to.topic(), to.partition(), null, value), (sent, error) -> {
            if (error == null) noteSend(client, to, value, source + ",\"offset\":" + sent.offset(), OK);
        });
    }

    /** Whether it was committed; throws where this producer can do no more. */
    static boolean end(KafkaProducer<String, String> producer, String client) {
        if (random(1, 10) > 1) {
            try {
                note(client, "commit", "", UNKNOWN);
                commit(producer);
                note(client, "commit", "", OK);
                return true;
            } catch (ProducerFencedException | InvalidProducerEpochException | OutOfOrderSequenceException
                    | AuthorizationException | UnsupportedVersionException error) {
                throw error;
            } catch (KafkaException error) {
                System.err.println(Instant.now() + " " + client + " aborts: " + error);
            }
        }
        abort(producer, client);
        return false;
    }

    static void commit(KafkaProducer<String, String> producer) {
        while (true) {
            try {
                producer.commitTransaction();
                return;
            } catch (TimeoutException error) {
                // It is safe to ask again, and nothing else is.
            }
        }
    }

    static void abort(KafkaProducer<String, String> producer, String client) {
        note(client, "abort", "", UNKNOWN);
        while (true) {
            try {
                producer.abortTransaction();
                note(client, "abort", "", OK);
                return;
            } catch (TimeoutException error) {
                // Again.
            }
        }
    }

    /** Reads, makes one record of each, and commits where it is with them. */
    static void loop(String id, String client) {
        try (KafkaProducer<String, String> producer = producer(id);
                KafkaConsumer<String, String> consumer = consumer("read_committed", GROUP)) {
            producer.initTransactions();
            Map<TopicPartition, Long> positions = new HashMap<>();
            consumer.subscribe(List.of("in"), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> revoked) { revoked.forEach(positions::remove); }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> assigned) {
                    begin(consumer, client, assigned, positions, false);
                }
            });
            for (int number = 0; ; number++) {
                ConsumerRecords<String, String> records = consumer.poll(POLL);
                note(client, consumer, positions, records, "read_committed");
                if (records.isEmpty()) continue;
                note(client, "begin", "", OK);
                producer.beginTransaction();
                boolean isCommitted = false;
                try {
                    process(producer, consumer, client, number, records);
                    isCommitted = end(producer, client);
                } catch (CommitFailedException error) {
                    System.err.println(Instant.now() + " " + client + " aborts: " + error);
                    abort(producer, client);
                }
                if (!isCommitted) begin(consumer, client, consumer.assignment(), positions, true);
            }
        }
    }

    static void process(KafkaProducer<String, String> producer, KafkaConsumer<String, String> consumer, String client,
            int number, ConsumerRecords<String, String> records) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        int at = 0;
        for (ConsumerRecord<String, String> record : records) {
            TopicPartition from = new TopicPartition(record.topic(), record.partition());
            TopicPartition to = new TopicPartition("out", random(0, PARTITIONS - 1));
            String source = ",\"source\":{\"group\":\"" + GROUP + "\"" + partition(from) + ",\"offset\":"
                    + record.offset() + "}";
            send(producer, client, to, client + ":" + number + ":" + at++, source);
            offsets.put(from, new OffsetAndMetadata(record.offset() + 1));
        }
        offsets.forEach((of, offset) -> noteOffset(client, "offsets", of, offset.offset()));
        while (true) {
            try {
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                return;
            } catch (TimeoutException error) {
                // Again.
            }
        }
    }

    /** The group says where to go on. */
    static void begin(KafkaConsumer<String, String> consumer, String client, Collection<TopicPartition> partitions,
            Map<TopicPartition, Long> positions, boolean seeks) {
        Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(Set.copyOf(partitions));
        for (TopicPartition at : partitions) {
            OffsetAndMetadata offset = committed.get(at);
            if (offset != null) noteOffset(client, "committed", at, offset.offset());
            if (seeks) consumer.seek(at, offset == null ? 0 : offset.offset());
            note(client, "seek", partition(at), OK);
            positions.put(at, consumer.position(at));
        }
    }

    /** What was read, and what was passed over. */
    static void note(String client, KafkaConsumer<String, String> consumer, Map<TopicPartition, Long> positions,
            ConsumerRecords<String, String> records, String isolation) {
        for (TopicPartition at : consumer.assignment()) {
            long from = positions.get(at), next = consumer.position(at);
            if (next == from && records.records(at).isEmpty()) continue;
            notePoll(client, at, from, next, records.records(at), isolation);
            positions.put(at, next);
        }
    }

    static List<TopicPartition> all() {
        List<TopicPartition> all = new ArrayList<>();
        for (String topic : List.of("in", "out"))
            for (int at = 0; at < PARTITIONS; at++) all.add(new TopicPartition(topic, at));
        return all;
    }

    static void read(String isolation, String client) {
        try (KafkaConsumer<String, String> consumer = consumer(isolation, null)) {
            consumer.assign(all());
            if (random(1, 3) > 1) consumer.seekToEnd(all());
            Map<TopicPartition, Long> positions = new HashMap<>();
            for (TopicPartition at : all()) positions.put(at, consumer.position(at));
            while (true) note(client, consumer, positions, consumer.poll(POLL), isolation);
        }
    }

    /** From the first record to the last that was written, whatever the isolation: nothing is open any more. */
    static boolean finalRead(String isolation) {
        String client = name + "/" + isolation;
        try (KafkaConsumer<String, String> consumer = consumer(isolation, null);
                KafkaConsumer<String, String> asks = consumer("read_uncommitted", null)) {
            Instant deadline = Instant.now().plus(FINAL_MAX);
            consumer.assign(all());
            consumer.seekToBeginning(all());
            Map<TopicPartition, Long> positions = new HashMap<>(), ends = asks.endOffsets(all());
            for (TopicPartition at : all()) positions.put(at, consumer.position(at));
            while (positions.entrySet().stream().anyMatch(at -> at.getValue() < ends.get(at.getKey()))) {
                if (Instant.now().isAfter(deadline)) {
                    System.err.println(client + " came to " + positions + " of " + ends);
                    return false;
                }
                note(client, consumer, positions, consumer.poll(POLL), isolation);
            }
            return true;
        }
    }

    static int random(int least, int most) { return ThreadLocalRandom.current().nextInt(least, most + 1); }

    static void pause(int leastMs, int mostMs) {
        try {
            Thread.sleep(random(leastMs, mostMs));
        } catch (InterruptedException error) {
            throw new AssertionError("nobody interrupts", error);
        }
    }
}
