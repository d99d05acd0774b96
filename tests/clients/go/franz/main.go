// Command franz runs the smoke test with franz-go.
package main

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"anabranch/tests/clients/go/smoke"
)

type client struct {
	bootstrap string
	kafka     *kgo.Client
	admin     *kadm.Client
}

func main() { smoke.Main("franz-go", "github.com/twmb/franz-go", open) }

func open(bootstrap string) (smoke.Client, error) {
	kafka, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return nil, err
	}
	if _, err := kmsg.NewPtrApiVersionsRequest().RequestWith(context.Background(), kafka); err != nil {
		return nil, err
	}
	return &client{bootstrap, kafka, kadm.NewClient(kafka)}, nil
}

func (c *client) CreateTopic(ctx context.Context, topic string, partitions, replicas int, configs map[string]string) error {
	values := make(map[string]*string)
	for name, value := range configs {
		values[name] = &value
	}
	_, err := c.admin.CreateTopic(ctx, int32(partitions), int16(replicas), values, topic)
	return err
}

func (c *client) DeleteTopic(ctx context.Context, topic string) error {
	answer, err := c.admin.DeleteTopic(ctx, topic)
	return errors.Join(err, answer.Err)
}

func (c *client) Topics(ctx context.Context) (map[string]int, error) {
	topics, err := c.admin.ListTopics(ctx)
	counts := make(map[string]int)
	for _, topic := range topics {
		counts[topic.Topic] = len(topic.Partitions)
	}
	return counts, err
}

var codecs = map[string]kgo.CompressionCodec{
	"": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (c *client) Produce(ctx context.Context, topic string, how smoke.How, records []smoke.Record) error {
	options := []kgo.Opt{
		kgo.SeedBrokers(c.bootstrap),
		kgo.ProducerBatchCompression(codecs[how.Codec]),
		kgo.ProducerBatchMaxBytes(smoke.LargestRequest),
	}
	switch how.Acks {
	case smoke.AcksLeader:
		options = append(options, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case smoke.AcksNone:
		options = append(options, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	}
	producer, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer producer.Close()
	batch := make([]*kgo.Record, len(records))
	for i, r := range records {
		batch[i] = &kgo.Record{Topic: topic, Key: []byte(r.Key), Value: []byte(r.Value)}
		for _, h := range r.Headers {
			batch[i].Headers = append(batch[i].Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
		}
	}
	return producer.ProduceSync(ctx, batch...).FirstErr()
}

func (c *client) Consume(ctx context.Context, topic, group string, count int) ([]smoke.Record, error) {
	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(c.bootstrap),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	out, err := take(ctx, consumer, count)
	if err != nil {
		return nil, err
	}
	return out, consumer.CommitUncommittedOffsets(ctx)
}

func take(ctx context.Context, consumer *kgo.Client, count int) ([]smoke.Record, error) {
	var out []smoke.Record
	for len(out) < count {
		fetches := consumer.PollRecords(ctx, count-len(out))
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := smoke.Record{Key: string(r.Key), Value: string(r.Value)}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, smoke.Header{Key: h.Key, Value: string(h.Value)})
			}
			out = append(out, record)
		})
	}
	return out, nil
}

func (c *client) Read(ctx context.Context, topic string, offset int64, count int) ([]smoke.Record, error) {
	at := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(offset)}}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap), kgo.ConsumePartitions(at))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	return take(ctx, consumer, count)
}

func (c *client) Committed(ctx context.Context, topic, group string, _ int) (int64, error) {
	offsets, err := c.admin.FetchOffsets(ctx, group)
	if err != nil {
		return 0, err
	}
	var sum int64
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic {
			sum += max(o.At, 0)
		}
	})
	return sum, offsets.Error()
}
