import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's own clients, while their topic moves to another cluster: an idempotent producer, a group of each protocol, and a reader without a
 * group. {@code BOOTSTRAP TOPIC}; the topic has three partitions. A line on standard input asks, a line on standard output answers: "status" how
 * many records are acknowledged, once both groups have committed something, "stop" how it went ("ANSWER ..."), after all of them were read. What is wrong ends it with 1.
 */
public final class Redirect {
    static final int PARTITIONS = 3;
    static final AtomicLong acknowledged = new AtomicLong();
    static volatile boolean stopping = false;
    static volatile long end = Long.MAX_VALUE;
    static volatile String alone = "reads";
    static String bootstrap;
    static String topic;

    static void fail(String why) {
        System.err.println("FAILED: " + why);
        System.err.flush();
        Runtime.getRuntime().halt(1);
    }

    static Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.serializer", StringSerializer.class.getName());
        settings.put("value.serializer", StringSerializer.class.getName());
        settings.put("key.deserializer", StringDeserializer.class.getName());
        settings.put("value.deserializer", StringDeserializer.class.getName());
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        return settings;
    }

    static void produce() {
        Properties settings = settings();
        settings.put("linger.ms", "2");
        long number = 0;
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings)) {
            while (!stopping) {
                for (int i = 0; i < 5; i++, number++) {
                    long sent = number;
                    int partition = (int) (number % PARTITIONS);
                    producer.send(new ProducerRecord<>(topic, partition, "k", Long.toString(number)), (at, error) -> {
                        if (error != null) {
                            fail("record " + sent + ": " + error);
                        }
                        acknowledged.incrementAndGet();
                    });
                }
                Thread.sleep(5);
            }
        } catch (InterruptedException error) {
            fail(error.toString());
        }
        if (acknowledged.get() != number) {
            fail(acknowledged.get() + " acknowledged of " + number);
        }
        end = number;
    }

    /** The first number of a partition that is not below {@code from}. */
    static long first(int partition, long from) {
        long number = partition;
        while (number < from) {
            number += PARTITIONS;
        }
        return number;
    }

    static final class Member implements Runnable, ConsumerRebalanceListener {
        final String protocol;
        final AtomicInteger lost = new AtomicInteger();
        final Map<Integer, Long> next = new ConcurrentHashMap<>();
        final Map<Integer, Long> committed = new ConcurrentHashMap<>();

        Member(String protocol) {
            this.protocol = protocol;
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            for (TopicPartition at : partitions) {
                next.put(at.partition(), committed.getOrDefault(at.partition(), (long) at.partition()));
            }
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            if (!stopping) {
                lost.incrementAndGet();
            }
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            lost.incrementAndGet();
        }

        boolean isThrough() {
            for (int partition = 0; partition < PARTITIONS; partition++) {
                if (next.getOrDefault(partition, -1L) != first(partition, end)) {
                    return false;
                }
            }
            return true;
        }

        @Override
        public void run() {
            Properties settings = settings();
            settings.put("group.id", topic + "-" + protocol);
            settings.put("group.protocol", protocol);
            try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
                consumer.subscribe(List.of(topic), this);
                int since = 0;
                while (end == Long.MAX_VALUE || !isThrough()) {
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                        long number = Long.parseLong(record.value());
                        long expected = next.get(record.partition());
                        if (number != expected) {
                            fail(protocol + ": " + number + " instead of " + expected + " at " + record.partition() + "@" + record.offset());
                        }
                        next.put(record.partition(), number + PARTITIONS);
                        since++;
                    }
                    if (since >= 50) {
                        since = 0;
                        try {
                            consumer.commitSync();
                            committed.putAll(next);
                        } catch (CommitFailedException | RebalanceInProgressException | RetriableException error) {
                            // What is not committed comes again.
                        }
                    }
                }
            } catch (RuntimeException error) {
                error.printStackTrace();
                fail(protocol + ": " + error);
            }
        }
    }

    static void readAlone() {
        long next = 0;
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings())) {
            TopicPartition at = new TopicPartition(topic, 0);
            consumer.assign(List.of(at));
            consumer.seekToBeginning(List.of(at));
            while (!stopping) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                    long number = Long.parseLong(record.value());
                    if (number != next) {
                        fail("without a group: " + number + " instead of " + next + " at " + record.offset());
                    }
                    next += PARTITIONS;
                }
            }
        } catch (KafkaException | IllegalStateException error) {
            alone = "refused: " + error.getMessage();
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        topic = args[1];
        Thread producer = new Thread(Redirect::produce);
        Thread reader = new Thread(Redirect::readAlone);
        Member[] members = {new Member("classic"), new Member("consumer")};
        Thread[] threads = {new Thread(members[0]), new Thread(members[1])};
        producer.start();
        reader.start();
        for (Thread thread : threads) {
            thread.start();
        }
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null && !line.equals("stop"); line = input.readLine()) {
            boolean areMembers = !members[0].committed.isEmpty() && !members[1].committed.isEmpty();
            System.out.println("ANSWER " + (areMembers ? acknowledged.get() : 0));
        }
        stopping = true;
        producer.join();
        reader.join();
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.printf(
            "ANSWER {\"end\":%d,\"lost_classic\":%d,\"lost_consumer\":%d,\"alone\":\"%s\"}%n",
            end, members[0].lost.get(), members[1].lost.get(), alone.replace('"', '\''));
    }
}
