// What the assignors of Apache Kafka's coordinator make of groups that come from a seed, one line each; compared with ours by
// crates/broker/src/group/consumer/assign/tests.rs:
//
//   java -cp "$KAFKA_LIB/*" Assignors.java 300 > target/assignors
//   ANABRANCH_ASSIGNORS=$PWD/target/assignors cargo test -p anabranch-broker assignors_of_kafka
//
// A line: ASSIGNOR TOPIC:COUNT,... MEMBER/INSTANCE/TOPIC,.../BEFORE/AFTER ...   with BEFORE and AFTER as TOPIC-PARTITION,...

import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.group.api.assignor.*;
import org.apache.kafka.coordinator.group.assignor.*;
import org.apache.kafka.coordinator.group.modern.*;

public class Assignors {
    public static void main(String[] args) throws Exception {
        for (int seed = 0; seed < Integer.parseInt(args[0]); seed++) group(new Random(seed));
    }

    static Uuid topic(int number) { return new Uuid(0, number); }

    static void group(Random random) throws Exception {
        Map<Uuid, Integer> counts = new TreeMap<>();
        for (int topic = 1; topic <= 1 + random.nextInt(5); topic++) counts.put(topic(topic), 1 + random.nextInt(12));
        boolean same = random.nextBoolean(), range = random.nextBoolean();
        Set<Uuid> first = some(random, counts.keySet());
        Map<String, Set<Uuid>> members = new TreeMap<>();
        Map<String, Optional<String>> instances = new TreeMap<>();
        int size = 1 + random.nextInt(9);
        for (int member = 0; member < size; member++) {
            members.put("m" + member, same ? first : some(random, counts.keySet()));
            instances.put("m" + member, random.nextBoolean() ? Optional.of("i" + (9 - member)) : Optional.empty());
        }
        var assignor = range ? new RangeAssignor() : new UniformAssignor();
        // Two runs: from nothing, and after some have left and others come.
        Map<String, Map<Uuid, Set<Integer>>> before = new TreeMap<>();
        for (int run = 0; run < 2; run++) {
            var after = assign(assignor, counts, members, instances, before);
            System.out.println(assignor.name() + " "
                + counts.entrySet().stream().map(e -> number(e.getKey()) + ":" + e.getValue()).collect(Collectors.joining(","))
                + " " + show(members, instances, before, after));
            before = after;
            for (String gone : new ArrayList<>(members.keySet())) {
                if (members.size() > 1 && random.nextInt(3) == 0) members.remove(gone);
            }
            before.keySet().retainAll(members.keySet());
            if (random.nextBoolean()) {
                members.put("n", same ? first : some(random, counts.keySet()));
                instances.put("n", Optional.empty());
            }
        }
    }

    static Set<Uuid> some(Random random, Set<Uuid> topics) {
        Set<Uuid> chosen = new TreeSet<>();
        for (Uuid topic : topics) if (random.nextBoolean()) chosen.add(topic);
        if (chosen.isEmpty()) chosen.add(topics.iterator().next());
        return chosen;
    }

    static Map<String, Map<Uuid, Set<Integer>>> assign(ConsumerGroupPartitionAssignor assignor, Map<Uuid, Integer> counts,
        Map<String, Set<Uuid>> members, Map<String, Optional<String>> instances, Map<String, Map<Uuid, Set<Integer>>> before) throws Exception {
        Map<String, MemberSubscriptionAndAssignmentImpl> specs = new TreeMap<>();
        Map<Uuid, Map<Integer, String>> owners = new HashMap<>();
        members.forEach((id, topics) -> {
            var held = before.getOrDefault(id, Map.of());
            held.forEach((topic, all) -> all.forEach(at -> owners.computeIfAbsent(topic, t -> new HashMap<>()).put(at, id)));
            specs.put(id, new MemberSubscriptionAndAssignmentImpl(Optional.empty(), instances.get(id), topics,
                new org.apache.kafka.coordinator.group.modern.Assignment(held)));
        });
        boolean same = new HashSet<>(members.values()).size() == 1;
        var spec = new GroupSpecImpl(specs, same ? SubscriptionType.HOMOGENEOUS : SubscriptionType.HETEROGENEOUS, owners);
        var describer = new SubscribedTopicDescriber() {
            public int numPartitions(Uuid topic) { return counts.getOrDefault(topic, -1); }
            public Set<String> racksForPartition(Uuid topic, int partition) { return Set.of(); }
        };
        Map<String, Map<Uuid, Set<Integer>>> after = new TreeMap<>();
        assignor.assign(spec, describer).members().forEach((id, assigned) -> {
            Map<Uuid, Set<Integer>> copy = new HashMap<>();
            assigned.partitions().forEach((topic, all) -> copy.put(topic, new HashSet<>(all)));
            after.put(id, copy);
        });
        return after;
    }

    static String show(Map<String, Set<Uuid>> members, Map<String, Optional<String>> instances,
        Map<String, Map<Uuid, Set<Integer>>> before, Map<String, Map<Uuid, Set<Integer>>> after) {
        return members.entrySet().stream().map(member -> member.getKey() + "/" + instances.get(member.getKey()).orElse("")
            + "/" + member.getValue().stream().map(Assignors::number).collect(Collectors.joining(","))
            + "/" + places(before.getOrDefault(member.getKey(), Map.of()))
            + "/" + places(after.getOrDefault(member.getKey(), Map.of()))).collect(Collectors.joining(" "));
    }

    static String number(Uuid topic) { return Long.toString(topic.getLeastSignificantBits()); }

    static String places(Map<Uuid, Set<Integer>> assigned) {
        return assigned.entrySet().stream().flatMap(e -> e.getValue().stream().map(at -> number(e.getKey()) + "-" + at))
            .sorted().collect(Collectors.joining(","));
    }
}
