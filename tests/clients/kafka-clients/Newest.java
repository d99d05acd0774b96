// What Kafka's own Java client can do today, and could not in 2.8.

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Newest extends Smoke {
    public static void main(String[] args) {
        Map<String, Check> checks = checks();
        checks.put("consumer_protocol", () -> groupCommitResume("consumer"));
        checks.put("consumer_protocol_rebalance", () -> groupRebalance("consumer", Map.of()));
        checks.put("consumer_protocol_regex", Newest::consumerProtocolRegex);
        checks.put("consumer_protocol_static", () -> staticMember("consumer"));
        checks.put("consumer_protocol_upgrade", () -> migrate("classic", "consumer"));
        checks.put("consumer_protocol_downgrade", () -> migrate("consumer", "classic"));
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
