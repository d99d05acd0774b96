// KafkaJS: a client in JavaScript alone; codecs other than gzip come from other packages.

import { createRequire } from 'node:module'
import kafkajs from 'kafkajs'
import snappy from 'kafkajs-snappy'
import lz4 from 'lz4-napi'
import { ZstdCodec } from 'zstd-codec'
import { BOOTSTRAP, LARGE, LARGE_TOPIC, TIMES_MS, equal, main, refused, unique, until, values } from '../lib/smoke.mjs'

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = kafkajs
const { version } = createRequire(import.meta.url)('kafkajs/package.json')

const zstd = await new Promise(resolve => ZstdCodec.run(api => resolve(new api.Simple())))
CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => lz4.compressFrameSync(encoder.buffer),
  decompress: async buffer => lz4.decompressFrameSync(buffer)
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer))
})

const kafka = new Kafka({ brokers: BOOTSTRAP, logLevel: logLevel.NOTHING })

async function connected(client, use) {
  await client.connect()
  try {
    return await use(client)
  } finally {
    await client.disconnect()
  }
}

const admin = use => connected(kafka.admin(), use)

async function newTopic(prefix, numPartitions = 1, configEntries = []) {
  const topic = unique(prefix)
  await admin(async a => {
    // Its own way to wait gives up when the broker does not know the topic yet that the controller has created.
    await a.createTopics({ topics: [{ topic, numPartitions, configEntries }], waitForLeaders: false })
    await until('the new topic is known', async () => (await a.listTopics()).includes(topic))
  })
  return topic
}

const produce = (topic, messages, { compression, acks = -1, ...config } = {}) =>
  connected(kafka.producer(config), p => p.send({ topic, acks, compression, messages }))

const valued = list => list.map(value => ({ value, partition: 0 }))

function member(groupId, config = {}) {
  return kafka.consumer({ groupId, heartbeatInterval: 500, sessionTimeout: 6000, maxWaitTimeInMs: 200, ...config })
}

// The first `count` messages that a new member of the group gets; `last` is called with the last one.
async function take(topic, count, { groupId = unique('group'), last = () => {}, ...config } = {}) {
  const messages = []
  return connected(member(groupId, config), async consumer => {
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ message }) => void (messages.length < count && messages.push(message))
    })
    await until(`${count} messages`, () => messages.length >= count, 20)
    await last(consumer, messages.at(-1))
    return messages
  })
}

const bodies = messages => messages.map(message => message.value.toString())

async function metadata() {
  const topic = await newTopic('metadata', 2)
  await admin(async a => {
    equal((await a.describeCluster()).brokers.length > 0, true)
    const { topics } = await a.fetchTopicMetadata({ topics: [topic] })
    equal(topics[0].partitions.map(p => p.partitionId).sort(), [0, 1])
  })
}

async function produceAcksAll() {
  const [answer] = await produce(await newTopic('acks'), valued(values(3)))
  equal([answer.errorCode, answer.baseOffset], [0, '0'])
}

async function produceAcks1() {
  const [answer] = await produce(await newTopic('acks1'), valued(values(3)), { acks: 1 })
  equal([answer.errorCode, answer.baseOffset], [0, '0'])
}

async function produceAcks0() {
  const topic = await newTopic('acks0')
  await produce(topic, valued(values(3)), { acks: 0 })
  equal(bodies(await take(topic, 3)), values(3))
}

// Partition 0 from this offset on.
async function read(topic, offset, count) {
  const messages = []
  await connected(member(unique('group')), async consumer => {
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ message }) => {
        if (BigInt(message.offset) >= BigInt(offset) && messages.length < count) messages.push(message)
      }
    })
    consumer.seek({ topic, partition: 0, offset: String(offset) })
    await until(`${count} messages`, () => messages.length >= count, 20)
  })
  return messages
}

async function consumeFromTo() {
  const topic = await newTopic('from-to')
  await produce(topic, valued(values(10)))
  equal(bodies(await read(topic, 3, 4)), values(10).slice(3, 7))
}

async function largeMessage() {
  const topic = await newTopic('large', 1, Object.entries(LARGE_TOPIC).map(([name, value]) => ({ name, value })))
  await produce(topic, valued([LARGE]))
  await refused('MESSAGE_TOO_LARGE', () => produce(topic, valued([LARGE + LARGE]), { retry: { retries: 0 } }))
  equal(bodies(await take(topic, 1))[0] === LARGE, true)
}

async function errorsBadInput() {
  const topic = await newTopic('bad-input')
  const create = (name, more = {}) => admin(async a => {
    const created = await a.createTopics({ topics: [{ topic: name, numPartitions: 1, ...more }], waitForLeaders: false })
    if (!created) throw new Error('TOPIC_ALREADY_EXISTS') // it says so by false
  })
  await refused('TOPIC_ALREADY_EXISTS', () => create(topic))
  await refused('INVALID_TOPIC_EXCEPTION', () => create('no/such name'))
  await refused('INVALID_REPLICATION_FACTOR', () => create(unique('absent'), { replicationFactor: 9 }))
  await refused('INVALID_CONFIG', () => create(unique('absent'), { configEntries: [{ name: 'retention.ms', value: 'soon' }] }))
  await refused('UNKNOWN_TOPIC_OR_PARTITION', () => admin(a => a.deleteTopics({ topics: [unique('absent')] })))
}

async function consumeFromBeginning() {
  const topic = await newTopic('beginning')
  await produce(topic, valued(values(5)))
  equal(bodies(await take(topic, 5)), values(5))
}

async function groupCommitResume() {
  const topic = await newTopic('resume')
  const groupId = unique('group')
  await produce(topic, valued(values(10)))
  await take(topic, 4, {
    groupId,
    last: (consumer, { offset }) =>
      consumer.commitOffsets([{ topic, partition: 0, offset: String(BigInt(offset) + 1n) }])
  })
  equal(bodies(await take(topic, 6, { groupId })), values(10).slice(4))
}

async function compression(codec) {
  const topic = await newTopic(codec)
  const type = { gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }[codec]
  await produce(topic, valued(values(20, 500)), { compression: CompressionTypes[type] })
  equal(bodies(await take(topic, 20)), values(20, 500))
}

async function headersDuplicateKeys() {
  const topic = await newTopic('headers')
  await produce(topic, [{ value: 'v', headers: { k: ['1', '2'], other: '' } }])
  const [{ headers }] = await take(topic, 1)
  equal([headers.k.map(String), String(headers.other)], [['1', '2'], ''])
}

async function timestampsOffsetsForTimes() {
  const topic = await newTopic('times')
  await produce(topic, TIMES_MS.map(time => ({ value: 'v', partition: 0, timestamp: String(time) })))
  equal((await take(topic, 3)).map(message => Number(message.timestamp)), TIMES_MS)
  const found = await admin(a => a.fetchTopicOffsetsByTimestamp(topic, TIMES_MS[0] + 500))
  equal(found[0].offset, '1')
}

async function createDeleteTopic() {
  const topic = await newTopic('delete', 3)
  await admin(async a => {
    equal((await a.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length, 3)
    await a.deleteTopics({ topics: [topic] })
    await until('the deleted topic is gone', async () => !(await a.listTopics()).includes(topic))
  })
}

async function describeConfigs() {
  const topic = await newTopic('configs', 1, [{ name: 'retention.ms', value: '123456' }])
  const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }]
  const answer = await admin(a => a.describeConfigs({ resources, includeSynonyms: false }))
  const entries = answer.resources[0].configEntries
  equal(entries.find(entry => entry.configName === 'retention.ms').configValue, '123456')
}

async function idempotent() {
  const topic = await newTopic('idempotent')
  await produce(topic, valued(values(20)), { idempotent: true, maxInFlightRequests: 1 })
  equal(bodies(await take(topic, 20)), values(20))
}

async function transactions() {
  const topic = await newTopic('transactions')
  const config = { transactionalId: unique('txn'), idempotent: true, maxInFlightRequests: 1 }
  await connected(kafka.producer(config), async producer => {
    for (const [value, end] of [['c1', 'commit'], ['a1', 'abort'], ['c2', 'commit']]) {
      const transaction = await producer.transaction()
      await transaction.send({ topic, messages: valued([value]) })
      await transaction[end]()
    }
  })
  equal(bodies(await take(topic, 2)), ['c1', 'c2']) // reads what is committed unless told otherwise
  equal(bodies(await take(topic, 3, { readUncommitted: true })), ['c1', 'a1', 'c2'])
}

const committed = async (topic, count) => bodies(await take(topic, count))

async function transactionsFenced() {
  const topic = await newTopic('fenced')
  const config = { transactionalId: unique('txn'), idempotent: true, maxInFlightRequests: 1 }
  await connected(kafka.producer(config), async zombie => {
    const old = await zombie.transaction()
    await old.send({ topic, messages: valued(['zombie']) })
    await connected(kafka.producer(config), async producer => {
      const transaction = await producer.transaction()
      await transaction.send({ topic, messages: valued(['c1']) })
      await refused('PRODUCER_EPOCH', () => old.commit())
      await transaction.commit()
    })
  })
  equal(await committed(topic, 1), ['c1'])
}

async function groupRebalanceTwoMembers() {
  const topic = await newTopic('rebalance', 2)
  const groupId = unique('group')
  const shares = new Map()
  const join = async () => {
    const consumer = member(groupId)
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) =>
      shares.set(consumer, payload.memberAssignment[topic]?.length ?? 0))
    await consumer.connect()
    await consumer.subscribe({ topics: [topic] })
    await consumer.run({ eachMessage: async () => {} })
    return consumer
  }
  const shared = expected => until(`shares ${expected}`, () => [...shares.values()].sort().join() === expected)
  const first = await join()
  await shared('2')
  const second = await join()
  await shared('1,1')
  await second.disconnect()
  shares.delete(second)
  await shared('2')
  await first.disconnect()
}

await main('kafkajs', version, {
  metadata,
  produce_acks_all: produceAcksAll,
  produce_acks_1: produceAcks1,
  produce_acks_0: produceAcks0,
  consume_from_beginning: consumeFromBeginning,
  consume_from_to: consumeFromTo,
  large_message: largeMessage,
  errors_bad_input: errorsBadInput,
  group_commit_resume: groupCommitResume,
  compression,
  headers_duplicate_keys: headersDuplicateKeys,
  timestamps_offsets_for_times: timestampsOffsetsForTimes,
  create_delete_topic: createDeleteTopic,
  describe_configs: describeConfigs,
  idempotent,
  transactions_commit_abort_read_committed: transactions,
  transactions_fenced: transactionsFenced,
  group_rebalance_two_members: groupRebalanceTwoMembers
})
