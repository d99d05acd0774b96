// Package smoke is the set of checks that every Go client library runs against the Kafka at KAFKA_BOOTSTRAP.
// It prints one JSON line, the same that the other languages' smoke programs print (../../lib).
package smoke

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const checkSecondsMax = 30

// Header is one record header. Kafka keeps headers as a list: order counts and a name may come twice.
type Header struct{ Key, Value string }

// Record is what a client must hand back exactly as it was produced.
type Record struct {
	Key, Value string
	Headers    []Header
}

// Client is a library under test, seen through the few calls that the checks make.
type Client interface {
	// CreateTopic fails with the broker's error.
	CreateTopic(ctx context.Context, topic string, partitions, replicas int, configs map[string]string) error
	DeleteTopic(ctx context.Context, topic string) error
	// Topics is the number of partitions of each topic of the cluster, asked of the broker anew.
	Topics(ctx context.Context) (map[string]int, error)
	// Produce returns once every record is acknowledged. Records of one key share a partition.
	Produce(ctx context.Context, topic string, how How, records []Record) error
	// Read returns count records of partition 0 from this offset on, without a group.
	Read(ctx context.Context, topic string, offset int64, count int) ([]Record, error)
	// Consume joins the group, reads count records (from the start where the group has no commit), commits these and leaves.
	Consume(ctx context.Context, topic, group string, count int) ([]Record, error)
	// Committed is the sum of the group's committed offsets over the topic's partitions.
	Committed(ctx context.Context, topic, group string, partitions int) (int64, error)
}

// How records are produced. The codec is one of codecs, or "" for none.
type How struct {
	Codec string
	Acks  Acks
}

// Acks is what a producer waits for; all by default.
type Acks int

const (
	AcksAll Acks = iota
	AcksLeader
	AcksNone
)

// A record of largeBytes fits into a topic with these settings, and one of twice as many does not.
const largeBytes = 2_500_000

var largeTopic = map[string]string{"max.message.bytes": "3000000"}

// LargestRequest is what a client must be allowed to send for these checks.
const LargestRequest = 8_000_000

var codecs = []string{"gzip", "snappy", "lz4", "zstd"}

type check func(ctx context.Context, client Client) error

// Main runs the checks with the client that open connects, and prints the report. The library is known to Go as module.
func Main(library, module string, open func(bootstrap string) (Client, error)) {
	checks, errors := map[string]any{}, map[string]string{}
	attempt := func(name string, body check) bool {
		err := within(checkSecondsMax*time.Second, func(ctx context.Context) error {
			client, err := open(os.Getenv("KAFKA_BOOTSTRAP"))
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			return body(ctx, client)
		})
		if err != nil {
			errors[name] = err.Error()
		}
		return err == nil
	}
	checks["metadata"] = attempt("metadata", metadata)
	checks["produce_acks_all"] = attempt("produce_acks_all", produceAcks(AcksAll))
	checks["produce_acks_1"] = attempt("produce_acks_1", produceAcks(AcksLeader))
	checks["produce_acks_0"] = attempt("produce_acks_0", produceAcks(AcksNone))
	checks["consume_from_to"] = attempt("consume_from_to", consumeFromTo)
	checks["large_message"] = attempt("large_message", largeMessage)
	checks["errors_bad_input"] = attempt("errors_bad_input", errorsBadInput)
	checks["group_commit_resume"] = attempt("group_commit_resume", groupCommitResume)
	compressed := map[string]bool{}
	for _, codec := range codecs {
		compressed[codec] = attempt("compression."+codec, compression(codec))
	}
	checks["compression"] = compressed
	checks["headers_duplicate_keys"] = attempt("headers_duplicate_keys", headersDuplicateKeys)
	checks["create_delete_topic"] = attempt("create_delete_topic", createDeleteTopic)
	checks["keyed_round_trip"] = attempt("keyed_round_trip", keyedRoundTrip)
	report := map[string]any{"client": library, "version": version(module), "checks": checks, "errors": errors}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		panic(err)
	}
}

// within gives body a context that ends in time; a body that hangs all the same is left behind.
func within(limit time.Duration, body func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- body(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit + time.Second): // the body's own account of its deadline says more
		return fmt.Errorf("no answer within %v", limit)
	}
}

func version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				return dependency.Version
			}
		}
	}
	return "unknown"
}

func unique(prefix string) string {
	return fmt.Sprintf("smoke-%s-%d-%d", prefix, os.Getpid(), time.Now().UnixNano())
}

// newTopic creates a topic and waits for the broker to know it: the controller is the one that created it.
func newTopic(ctx context.Context, client Client, prefix string, partitions int) (string, error) {
	return newTopicWith(ctx, client, prefix, partitions, nil)
}

func newTopicWith(ctx context.Context, client Client, prefix string, partitions int, configs map[string]string) (string, error) {
	topic := unique(prefix)
	if err := client.CreateTopic(ctx, topic, partitions, 1, configs); err != nil {
		return "", fmt.Errorf("create topic: %w", err)
	}
	return topic, until(ctx, "the new topic has its partitions", func() (bool, error) {
		topics, err := client.Topics(ctx)
		return topics[topic] == partitions, err
	})
}

func until(ctx context.Context, what string, condition func() (bool, error)) error {
	for {
		if met, err := condition(); met || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it did not come to this: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func metadata(ctx context.Context, client Client) error {
	_, err := newTopic(ctx, client, "metadata", 2)
	return err
}

func createDeleteTopic(ctx context.Context, client Client) error {
	topic, err := newTopic(ctx, client, "delete", 3)
	if err != nil {
		return err
	}
	if err := client.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("delete topic: %w", err)
	}
	return until(ctx, "the deleted topic is gone", func() (bool, error) {
		topics, err := client.Topics(ctx)
		_, listed := topics[topic]
		return !listed, err
	})
}

func produceAcks(acks Acks) check {
	return func(ctx context.Context, client Client) error {
		topic, err := newTopic(ctx, client, "acks", 1)
		if err != nil {
			return err
		}
		sent := records(3, 1)
		if err := client.Produce(ctx, topic, How{Acks: acks}, sent); err != nil {
			return fmt.Errorf("produce: %w", err)
		}
		return readSame(ctx, client, topic, 0, sent)
	}
}

func readSame(ctx context.Context, client Client, topic string, offset int64, want []Record) error {
	got, err := client.Read(ctx, topic, offset, len(want))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return same(want, got)
}

func consumeFromTo(ctx context.Context, client Client) error {
	topic, err := newTopic(ctx, client, "from-to", 1)
	if err != nil {
		return err
	}
	sent := records(10, 1)
	if err := client.Produce(ctx, topic, How{}, sent); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	return readSame(ctx, client, topic, 3, sent[3:7])
}

func largeMessage(ctx context.Context, client Client) error {
	topic, err := newTopicWith(ctx, client, "large", 1, largeTopic)
	if err != nil {
		return err
	}
	large := []Record{{Key: "key", Value: strings.Repeat("x", largeBytes)}}
	if err := client.Produce(ctx, topic, How{}, large); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	twice := []Record{{Key: "key", Value: strings.Repeat("x", 2*largeBytes)}}
	if err := refused(client.Produce(ctx, topic, How{}, twice), "too large", "TOO_LARGE", "larger than"); err != nil {
		return err
	}
	return readSame(ctx, client, topic, 0, large)
}

func errorsBadInput(ctx context.Context, client Client) error {
	topic, err := newTopic(ctx, client, "bad-input", 1)
	if err != nil {
		return err
	}
	absent := unique("absent")
	for _, bad := range []struct {
		err  error
		want []string
	}{
		{client.CreateTopic(ctx, topic, 1, 1, nil), []string{"already exists", "ALREADY_EXISTS", "Already Exists"}},
		{client.CreateTopic(ctx, "no/such name", 1, 1, nil), []string{"INVALID_TOPIC", "Invalid Topic", "invalid topic"}},
		{client.CreateTopic(ctx, absent, 1, 9, nil), []string{"INVALID_REPLICATION", "Invalid Replication", "eplication-factor", "eplication factor"}},
		{client.CreateTopic(ctx, absent, 1, 1, map[string]string{"retention.ms": "soon"}), []string{"INVALID_CONFIG", "Invalid Config", "onfiguration"}},
		{client.DeleteTopic(ctx, absent), []string{"UNKNOWN_TOPIC", "Unknown Topic", "does not exist"}},
	} {
		if err := refused(bad.err, bad.want...); err != nil {
			return err
		}
	}
	return nil
}

// refused checks that there is an error, and that it says why in one of the clients' ways.
func refused(err error, reasons ...string) error {
	if err == nil {
		return fmt.Errorf("must be refused: %s", reasons[0])
	}
	for _, reason := range reasons {
		if strings.Contains(err.Error(), reason) {
			return nil
		}
	}
	return fmt.Errorf("must be refused, %s: %w", reasons[0], err)
}

// groupCommitResume: a member commits 4 of 10 and leaves; the next one of its group gets exactly the other 6.
func groupCommitResume(ctx context.Context, client Client) error {
	topic, err := newTopic(ctx, client, "resume", 1)
	if err != nil {
		return err
	}
	sent, group := records(10, 1), unique("group")
	if err := client.Produce(ctx, topic, How{}, sent); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	for _, share := range [][]Record{sent[:4], sent[4:]} {
		got, err := client.Consume(ctx, topic, group, len(share))
		if err != nil {
			return fmt.Errorf("consume: %w", err)
		}
		if err := same(share, got); err != nil {
			return err
		}
	}
	return nil
}

func compression(codec string) check {
	return func(ctx context.Context, client Client) error {
		sent := records(20, 1)
		for i := range sent {
			sent[i].Value += strings.Repeat(".", 500)
		}
		return roundTrip(ctx, client, codec, 1, sent)
	}
}

func headersDuplicateKeys(ctx context.Context, client Client) error {
	return roundTrip(ctx, client, "", 1, []Record{{"key", "v", []Header{{"k", "1"}, {"other", ""}, {"k", "2"}}}})
}

func keyedRoundTrip(ctx context.Context, client Client) error {
	return roundTrip(ctx, client, "", 3, records(1000, 10))
}

// roundTrip produces, consumes in a group, compares, and reads the group's commit back.
func roundTrip(ctx context.Context, client Client, codec string, partitions int, sent []Record) error {
	topic, err := newTopic(ctx, client, "round-trip", partitions)
	if err != nil {
		return err
	}
	if err := client.Produce(ctx, topic, How{Codec: codec}, sent); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	group := unique("group")
	got, err := client.Consume(ctx, topic, group, len(sent))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	if err := same(sent, got); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	committed, err := client.Committed(ctx, topic, group, partitions)
	if err != nil {
		return fmt.Errorf("read the commit: %w", err)
	}
	if committed != int64(len(sent)) {
		return fmt.Errorf("committed offsets add up to %d, not %d", committed, len(sent))
	}
	return nil
}

func records(count, keys int) []Record {
	out := make([]Record, count)
	for i := range out {
		n := strconv.Itoa(i)
		out[i] = Record{
			Key:     "key-" + strconv.Itoa(i%keys),
			Value:   "value-" + n,
			Headers: []Header{{"n", n}, {"twice", "a"}, {"twice", "b"}},
		}
	}
	return out
}

// same checks that every key's records came back complete, unchanged and in the order they were sent.
func same(sent, got []Record) error {
	want, have := byKey(sent), byKey(got)
	if len(got) != len(sent) || len(have) != len(want) {
		return fmt.Errorf("sent %d records of %d keys, got %d of %d", len(sent), len(want), len(got), len(have))
	}
	for key, records := range want {
		equal := func(a, b Record) bool { return a.Value == b.Value && slices.Equal(a.Headers, b.Headers) }
		if !slices.EqualFunc(records, have[key], equal) {
			return fmt.Errorf("records of %s differ", key)
		}
	}
	return nil
}

func byKey(records []Record) map[string][]Record {
	out := make(map[string][]Record)
	for _, r := range records {
		out[r.Key] = append(out[r.Key], r)
	}
	return out
}
