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

func (c *client) CreateTopic(ctx context.Context, topic string, partitions int) error {
	response, err := c.kafka.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: partitions, ReplicationFactor: 1}},
	})
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

func (c *client) Produce(ctx context.Context, topic, codec string, records []smoke.Record) error {
	writer := &kafka.Writer{
		Addr:         kafka.TCP(c.bootstrap),
		Topic:        topic,
		Balancer:     &kafka.Hash{},
		RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
		Compression:  codecs[codec],
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
		messages[i] = m
		out[i] = smoke.Record{Key: string(m.Key), Value: string(m.Value)}
		for _, h := range m.Headers {
			out[i].Headers = append(out[i].Headers, smoke.Header{Key: h.Key, Value: string(h.Value)})
		}
	}
	return out, reader.CommitMessages(ctx, messages...)
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
