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
	CreateTopic(ctx context.Context, topic string, partitions int) error
	DeleteTopic(ctx context.Context, topic string) error
	// Topics is the number of partitions of each topic of the cluster, asked of the broker anew.
	Topics(ctx context.Context) (map[string]int, error)
	// Produce returns once every record is acknowledged with acks=all. Records of one key share a partition.
	// The codec is one of codecs, or "" for none.
	Produce(ctx context.Context, topic, codec string, records []Record) error
	// Consume joins the group, reads count records (from the start where the group has no commit), commits these and leaves.
	Consume(ctx context.Context, topic, group string, count int) ([]Record, error)
	// Committed is the sum of the group's committed offsets over the topic's partitions.
	Committed(ctx context.Context, topic, group string, partitions int) (int64, error)
}

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
	topic := unique(prefix)
	if err := client.CreateTopic(ctx, topic, partitions); err != nil {
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

// groupCommitResume: a member commits 4 of 10 and leaves; the next one of its group gets exactly the other 6.
func groupCommitResume(ctx context.Context, client Client) error {
	topic, err := newTopic(ctx, client, "resume", 1)
	if err != nil {
		return err
	}
	sent, group := records(10, 1), unique("group")
	if err := client.Produce(ctx, topic, "", sent); err != nil {
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
	if err := client.Produce(ctx, topic, codec, sent); err != nil {
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
