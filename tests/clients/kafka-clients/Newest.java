// What Kafka's own Java client can do today, and could not in 2.8.

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Newest extends Smoke {
    public static void main(String[] args) {
        Map<String, Check> checks = checks();
        // The new protocol's members are heard of every 5 s.
        secondsMax.put("group_protocol_migration", 120);
        checks.put("consumer_protocol", () -> groupCommitResume("consumer"));
        checks.put("consumer_protocol_rebalance", () -> groupRebalance("consumer", Map.of()));
        checks.put("consumer_protocol_regex", Newest::consumerProtocolRegex);
        checks.put("consumer_protocol_static", () -> staticMember("consumer"));
        checks.put("consumer_protocol_upgrade", () -> migrate("classic", "consumer"));
        checks.put("consumer_protocol_downgrade", () -> migrate("consumer", "classic"));
        checks.put("group_protocol_migration", Newest::groupProtocolMigration);
        checks.put("share_consumer", Newest::shareConsumer);
        checks.put("list_offsets", Newest::listOffsets);
        report("kafka-clients", checks);
    }

    // It is the broker that finds the topics.
    static void consumerProtocolRegex() throws Exception {
        String prefix = unique("regex"), group = unique("group");
        for (String name : List.of("-a", "-b", "-other")) create(prefix + name, 1, 1, Map.of());
        try (var member = consumer(Map.of("group.id", group, "group.protocol", "consumer"))) {
            member.subscribe(new SubscriptionPattern(prefix + "-[ab]"));
            until("two topics", () -> {
                member.poll(Duration.ofMillis(100));
                return member.assignment().size() == 2;
            });
            equal(member.assignment().stream().map(p -> p.topic()).sorted().toList(), List.of(prefix + "-a", prefix + "-b"));
        }
    }

    // A member of the other protocol joins while the first is there, and takes over when that one goes.
    static void migrate(String from, String to) throws Exception {
        String topic = newTopic("migrate", 2, Map.of()), group = unique("group");
        var first = member(topic, group, from);
        awaitShares(List.of(first), List.of(2));
        try (var second = member(topic, group, to)) {
            awaitShares(List.of(first, second), List.of(1, 1));
            first.close();
            awaitShares(List.of(second), List.of(2));
        } finally {
            first.close();
        }
    }

    // KIP-848: members of a group are restarted one by one in the other protocol, and then back, while a producer goes on. What a
    // member has read, it commits before it polls again; so every record is read once, whoever reads it.
    static void groupProtocolMigration() throws Exception {
        String topic = newTopic("migration", 4, Map.of()), group = unique("group");
        Map<String, Integer> read = new ConcurrentHashMap<>();
        AtomicBoolean produces = new AtomicBoolean(true);
        FutureTask<Integer> producing = new FutureTask<>(() -> {
            int count = 0;
            try (var producer = producer(Map.of())) {
                for (; produces.get(); count++) {
                    producer.send(new ProducerRecord<>(topic, "k" + count, "v" + count)).get();
                    Thread.sleep(2);
                }
            }
            return count;
        });
        start(producing);
        List<Reader> members = new ArrayList<>();
        for (int each = 0; each < 2; each++) members.add(new Reader(topic, group, "classic", read));
        awaitSharing(members);
        for (String protocol : List.of("consumer", "classic")) {
            for (int each = 0; each < 2; each++) {
                members.remove(0).stop();
                members.add(new Reader(topic, group, protocol, read));
                awaitSharing(members);
            }
            equal(admin.listGroups().all().get().stream().filter(listed -> listed.groupId().equals(group))
                .map(listed -> listed.type().get().toString().toLowerCase()).toList(), List.of(protocol));
        }
        produces.set(false);
        int produced = producing.get();
        until("all " + produced + " records are read", () -> read.size() == produced);
        for (Reader member : members) member.stop();
        equal(read.values().stream().filter(times -> times > 1).count(), 0L);
        long committed = 0;
        for (var offset : admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().values())
            committed += offset.offset();
        equal(committed, (long) produced);
    }

    static void start(FutureTask<?> task) {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
    }

    static void awaitSharing(List<Reader> members) throws Exception {
        long deadline = System.nanoTime() + 60_000_000_000L;
        while (!members.stream().allMatch(member -> member.share == 2)) {
            for (Reader member : members) if (member.task.isDone()) member.task.get();
            if (System.nanoTime() > deadline)
                throw new TimeoutException("in 60 s each had not two partitions, but " + members);
            Thread.sleep(20);
        }
    }

    // Reads, counts and commits in a thread of its own.
    static class Reader {
        final Consumer<String, String> consumer;
        final FutureTask<Void> task;
        volatile int share;
        volatile boolean stops;

        Reader(String topic, String group, String protocol, Map<String, Integer> read) {
            consumer = member(topic, group, protocol);
            task = new FutureTask<>(() -> {
                while (!stops) {
                    var records = consumer.poll(Duration.ofMillis(100));
                    for (var record : records) read.merge(record.value(), 1, Integer::sum);
                    if (!records.isEmpty()) consumer.commitSync();
                    share = consumer.assignment().size();
                }
                consumer.close();
                return null;
            });
            start(task);
        }

        void stop() throws Exception {
            stops = true;
            task.get();
        }

        @Override public String toString() { return String.valueOf(share); }
    }

    // KIP-932: accept one record, release one for redelivery, reject one.
    static void shareConsumer() throws Exception {
        String topic = newTopic("share"), group = unique("share-group");
        ConfigResource resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        alter(resource, "share.auto.offset.reset", "earliest");
        produce(topic, values(0, 3, 0));
        Map<String, Object> config = with(Map.of("group.id", group, "share.acknowledgement.mode", "explicit"));
        List<String> deliveries = new ArrayList<>();
        try (var member = new KafkaShareConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            member.subscribe(List.of(topic));
            until("4 deliveries", () -> {
                for (var record : member.poll(Duration.ofMillis(200))) {
                    int count = record.deliveryCount().orElse((short) 0);
                    deliveries.add(record.value() + "#" + count);
                    member.acknowledge(record, record.value().equals("v1") && count == 1 ? AcknowledgeType.RELEASE
                        : record.value().equals("v2") ? AcknowledgeType.REJECT : AcknowledgeType.ACCEPT);
                }
                for (var outcome : member.commitSync().values()) if (outcome.isPresent()) throw outcome.get();
                return deliveries.size() >= 4;
            });
        }
        equal(deliveries, List.of("v0#1", "v1#1", "v2#1", "v1#2"));
    }

    static void listOffsets() throws Exception {
        String topic = newTopic("offsets");
        try (var producer = producer(Map.of())) {
            for (long time : new long[] {TIMES_MS[0], TIMES_MS[2], TIMES_MS[1]})
                producer.send(new ProducerRecord<>(topic, 0, time, null, "v")).get();
        }
        equal(List.of(offset(topic, OffsetSpec.earliest()), offset(topic, OffsetSpec.latest()),
            offset(topic, OffsetSpec.maxTimestamp()), offset(topic, OffsetSpec.forTimestamp(TIMES_MS[0] + 1))),
            List.of(0L, 3L, 1L, 1L));
    }
}
