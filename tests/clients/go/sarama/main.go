// Command sarama runs the smoke test with Sarama. SARAMA_VERSION (such as 2.8.0) caps the request versions it sends.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/IBM/sarama"

	"anabranch/tests/clients/go/smoke"
)

type client struct {
	bootstrap string
	kafka     sarama.Client
	admin     sarama.ClusterAdmin
}

func main() { smoke.Main("sarama", "github.com/IBM/sarama", open) }

func open(bootstrap string) (smoke.Client, error) {
	config, err := config()
	if err != nil {
		return nil, err
	}
	kafka, err := sarama.NewClient([]string{bootstrap}, config)
	if err != nil {
		return nil, err
	}
	admin, err := sarama.NewClusterAdminFromClient(kafka)
	if err != nil {
		return nil, err
	}
	return &client{bootstrap, kafka, admin}, nil
}

func config() (*sarama.Config, error) {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	if text := os.Getenv("SARAMA_VERSION"); text != "" {
		version, err := sarama.ParseKafkaVersion(text)
		if err != nil {
			return nil, err
		}
		config.Version = version
	}
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.MaxMessageBytes = smoke.LargestRequest
	config.Producer.Return.Successes = true
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	return config, nil
}

func (c *client) CreateTopic(_ context.Context, topic string, partitions, replicas int, configs map[string]string) error {
	detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: int16(replicas), ConfigEntries: map[string]*string{}}
	for name, value := range configs {
		detail.ConfigEntries[name] = &value
	}
	return c.admin.CreateTopic(topic, detail, false)
}

func (c *client) DeleteTopic(_ context.Context, topic string) error {
	return c.admin.DeleteTopic(topic)
}

func (c *client) Topics(context.Context) (map[string]int, error) {
	topics, err := c.admin.ListTopics()
	counts := make(map[string]int)
	for name, detail := range topics {
		counts[name] = int(detail.NumPartitions)
	}
	return counts, err
}

var codecs = map[string]sarama.CompressionCodec{
	"gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func (c *client) Produce(_ context.Context, topic string, how smoke.How, records []smoke.Record) error {
	config, err := config()
	if err != nil {
		return err
	}
	config.Producer.Compression = codecs[how.Codec]
	config.Producer.RequiredAcks = map[smoke.Acks]sarama.RequiredAcks{
		smoke.AcksAll: sarama.WaitForAll, smoke.AcksLeader: sarama.WaitForLocal, smoke.AcksNone: sarama.NoResponse,
	}[how.Acks]
	producer, err := sarama.NewSyncProducer([]string{c.bootstrap}, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	batch := make([]*sarama.ProducerMessage, len(records))
	for i, r := range records {
		batch[i] = &sarama.ProducerMessage{
			Topic: topic, Key: sarama.StringEncoder(r.Key), Value: sarama.StringEncoder(r.Value),
		}
		for _, h := range r.Headers {
			batch[i].Headers = append(batch[i].Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: []byte(h.Value)})
		}
	}
	err = producer.SendMessages(batch)
	if failed := (sarama.ProducerErrors{}); errors.As(err, &failed) && len(failed) > 0 {
		return failed[0].Err // the list says only how many
	}
	return err
}

func (c *client) Consume(ctx context.Context, topic, group string, count int) ([]smoke.Record, error) {
	member, err := sarama.NewConsumerGroupFromClient(group, c.kafka)
	if err != nil {
		return nil, err
	}
	defer member.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages := make(chan *sarama.ConsumerMessage)
	failed := make(chan error, 1)
	go func() { failed <- member.Consume(ctx, []string{topic}, handler{messages}) }()

	var out []smoke.Record
	for len(out) < count {
		select {
		case m := <-messages:
			out = append(out, record(m))
		case err := <-failed:
			if err == nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
	}
	cancel() // ends the claims, which commit what they handed over
	return out, <-failed
}

func record(m *sarama.ConsumerMessage) smoke.Record {
	record := smoke.Record{Key: string(m.Key), Value: string(m.Value)}
	for _, h := range m.Headers {
		record.Headers = append(record.Headers, smoke.Header{Key: string(h.Key), Value: string(h.Value)})
	}
	return record
}

func (c *client) Read(ctx context.Context, topic string, offset int64, count int) ([]smoke.Record, error) {
	consumer, err := sarama.NewConsumerFromClient(c.kafka)
	if err != nil {
		return nil, err
	}
	partition, err := consumer.ConsumePartition(topic, 0, offset)
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	var out []smoke.Record
	for len(out) < count {
		select {
		case m := <-partition.Messages():
			out = append(out, record(m))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return out, nil
}

// handler hands each message over and commits when the claim ends.
type handler struct {
	messages chan<- *sarama.ConsumerMessage
}

func (handler) Setup(sarama.ConsumerGroupSession) error { return nil }

func (handler) Cleanup(session sarama.ConsumerGroupSession) error {
	session.Commit()
	return nil
}

func (h handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, open := <-claim.Messages():
			if !open {
				return nil
			}
			select {
			case h.messages <- m:
				session.MarkMessage(m, "")
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (c *client) Committed(_ context.Context, topic, group string, partitions int) (int64, error) {
	all := make([]int32, partitions)
	for i := range all {
		all[i] = int32(i)
	}
	response, err := c.admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: all})
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range all {
		if block := response.GetBlock(topic, p); block != nil {
			sum += max(block.Offset, 0)
		}
	}
	return sum, nil
}
