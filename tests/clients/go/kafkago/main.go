// Command kafkago runs the smoke test with segmentio/kafka-go.
package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"anabranch/tests/clients/go/smoke"
)

type client struct {
	bootstrap string
	kafka     *kafka.Client
}

func main() { smoke.Main("kafka-go", "github.com/segmentio/kafka-go", open) }

func open(bootstrap string) (smoke.Client, error) {
	return &client{bootstrap, &kafka.Client{Addr: kafka.TCP(bootstrap)}}, nil
}

func (c *client) CreateTopic(ctx context.Context, topic string, partitions, replicas int, configs map[string]string) error {
	config := kafka.TopicConfig{Topic: topic, NumPartitions: partitions, ReplicationFactor: replicas}
	for name, value := range configs {
		config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	response, err := c.kafka.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{config}})
	if err != nil {
		return err
	}
	return response.Errors[topic]
}

func (c *client) DeleteTopic(ctx context.Context, topic string) error {
	response, err := c.kafka.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	return response.Errors[topic]
}

func (c *client) Topics(ctx context.Context) (map[string]int, error) {
	// A transport of its own: the shared one answers metadata from its cache.
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	response, err := (&kafka.Client{Addr: kafka.TCP(c.bootstrap), Transport: transport}).Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int)
	for _, topic := range response.Topics {
		counts[topic.Name] = len(topic.Partitions)
	}
	return counts, nil
}

var codecs = map[string]kafka.Compression{
	"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

func (c *client) Produce(ctx context.Context, topic string, how smoke.How, records []smoke.Record) error {
	writer := &kafka.Writer{
		Addr:     kafka.TCP(c.bootstrap),
		Topic:    topic,
		Balancer: &kafka.Hash{},
		RequiredAcks: map[smoke.Acks]kafka.RequiredAcks{
			smoke.AcksAll: kafka.RequireAll, smoke.AcksLeader: kafka.RequireOne, smoke.AcksNone: kafka.RequireNone,
		}[how.Acks],
		BatchTimeout: 10 * time.Millisecond,
		BatchBytes:   smoke.LargestRequest,
		Compression:  codecs[how.Codec],
	}
	defer writer.Close()
	messages := make([]kafka.Message, len(records))
	for i, r := range records {
		messages[i] = kafka.Message{Key: []byte(r.Key), Value: []byte(r.Value)}
		for _, h := range r.Headers {
			messages[i].Headers = append(messages[i].Headers, kafka.Header{Key: h.Key, Value: []byte(h.Value)})
		}
	}
	return writer.WriteMessages(ctx, messages...)
}

func (c *client) Consume(ctx context.Context, topic, group string, count int) ([]smoke.Record, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:     []string{c.bootstrap},
		Topic:       topic,
		GroupID:     group,
		StartOffset: kafka.FirstOffset,
		MaxWait:     100 * time.Millisecond,
	})
	defer reader.Close()
	messages := make([]kafka.Message, count)
	out := make([]smoke.Record, count)
	for i := range out {
		m, err := reader.FetchMessage(ctx)
		if err != nil {
			return nil, err
		}
		messages[i], out[i] = m, record(m)
	}
	return out, reader.CommitMessages(ctx, messages...)
}

func record(m kafka.Message) smoke.Record {
	record := smoke.Record{Key: string(m.Key), Value: string(m.Value)}
	for _, h := range m.Headers {
		record.Headers = append(record.Headers, smoke.Header{Key: h.Key, Value: string(h.Value)})
	}
	return record
}

func (c *client) Read(ctx context.Context, topic string, offset int64, count int) ([]smoke.Record, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:  []string{c.bootstrap},
		Topic:    topic,
		MaxBytes: smoke.LargestRequest,
		MaxWait:  100 * time.Millisecond,
	})
	defer reader.Close()
	if err := reader.SetOffset(offset); err != nil {
		return nil, err
	}
	out := make([]smoke.Record, count)
	for i := range out {
		m, err := reader.ReadMessage(ctx)
		if err != nil {
			return nil, err
		}
		out[i] = record(m)
	}
	return out, nil
}

func (c *client) Committed(ctx context.Context, topic, group string, partitions int) (int64, error) {
	all := make([]int, partitions)
	for i := range all {
		all[i] = i
	}
	response, err := c.kafka.OffsetFetch(ctx, &kafka.OffsetFetchRequest{
		GroupID: group,
		Topics:  map[string][]int{topic: all},
	})
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range response.Topics[topic] {
		if p.Error != nil {
			return 0, p.Error
		}
		sum += max(p.CommittedOffset, 0)
	}
	return sum, response.Error
}
