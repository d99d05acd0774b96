//! Requests of an operator that the binding does not have: groups of either protocol, and changes of single settings.
//! Each function waits for the answer.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::time::Duration;

use anabranch_core::engine::{GroupInfo, MemberInfo, Position};
use anabranch_core::{Offset, TopicPartition};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use rdkafka_sys as native;
use rdkafka_sys::rd_kafka_admin_op_t as Operation;

use crate::watch::Watch;

/// What the cluster, or the library, says instead of an answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: String,
}

impl Refusal {
    fn new(code: RDKafkaRespErr, text: String) -> Self {
        Self { code: code.into(), text }
    }

    /// What cannot be put into a request.
    fn unfit(what: &str) -> Self {
        Self {
            code: RDKafkaErrorCode::InvalidRequest,
            text: format!("{what:?}: Kafka's client takes no text with a NUL in it"),
        }
    }
}

/// An answer, destroyed in the end.
struct Answer(NonNull<native::rd_kafka_event_t>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing borrowed of it is left.
        unsafe { native::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// Sends a request, and waits for its answer.
fn ask(
    client: &BaseConsumer<Watch>,
    operation: Operation,
    patience: Duration,
    send: impl FnOnce(
        *mut native::rd_kafka_t,
        *const native::rd_kafka_AdminOptions_t,
        *mut native::rd_kafka_queue_t,
    ),
) -> Result<Answer, Refusal> {
    let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let handle = client.client().native_ptr();
    // SAFETY: the client lives; options and queue are made here and destroyed here, after the answer has come or nobody
    // waits for it any more: the library holds a reference of its own to the queue.
    unsafe {
        let options = native::rd_kafka_AdminOptions_new(handle, operation);
        native::rd_kafka_AdminOptions_set_request_timeout(options, patience_ms, ptr::null_mut(), 0);
        let queue = native::rd_kafka_queue_new(handle);
        send(handle, options, queue);
        // The library answers in time, be it that nobody did; a little more for the way.
        let answer = native::rd_kafka_queue_poll(queue, patience_ms.saturating_add(1000));
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_queue_destroy(queue);
        let Some(answer) = NonNull::new(answer).map(Answer) else {
            return Err(Refusal {
                code: RDKafkaErrorCode::OperationTimedOut,
                text: "no answer in time".to_owned(),
            });
        };
        match native::rd_kafka_event_error(answer.0.as_ptr()) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(answer),
            code => Err(Refusal::new(code, text(native::rd_kafka_event_error_string(answer.0.as_ptr())))),
        }
    }
}

/// All consumer groups, or those named; an unknown one is left out.
pub(crate) fn groups(
    client: &BaseConsumer<Watch>,
    names: Option<Vec<String>>,
    patience: Duration,
) -> Result<Vec<GroupInfo>, Refusal> {
    let names = match names {
        Some(names) => names,
        None => group_names(client, patience)?,
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names = names.iter().map(|name| c_text(name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let answer = ask(
        client,
        Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        patience,
        |handle, options, queue| {
            // SAFETY: the names live as long as the call, which copies them.
            unsafe {
                native::rd_kafka_DescribeConsumerGroups(
                    handle,
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    options,
                    queue,
                );
            }
        },
    )?;
    let mut count = 0;
    // SAFETY: the answer is one to this request, and outlives what is read of it.
    let described = unsafe {
        let result = native::rd_kafka_event_DescribeConsumerGroups_result(answer.0.as_ptr());
        let groups = native::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        array(groups, count)
    };
    let mut groups = Vec::with_capacity(described.len());
    for group in described {
        // SAFETY: as above.
        if let Some(group) = unsafe { group_info(*group) }? {
            groups.push(group);
        }
    }
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(groups)
}

fn group_names(client: &BaseConsumer<Watch>, patience: Duration) -> Result<Vec<String>, Refusal> {
    let answer =
        ask(client, Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS, patience, |handle, options, queue| {
            // SAFETY: all three live.
            unsafe { native::rd_kafka_ListConsumerGroups(handle, options, queue) }
        })?;
    // SAFETY: the answer is one to this request, and outlives what is read of it.
    unsafe {
        let result = native::rd_kafka_event_ListConsumerGroups_result(answer.0.as_ptr());
        let mut count = 0;
        let errors = native::rd_kafka_ListConsumerGroups_result_errors(result, &raw mut count);
        if let Some(error) = array(errors, count).first() {
            // A list without some broker's groups is not a list of all.
            return Err(refusal(*error));
        }
        let listed = native::rd_kafka_ListConsumerGroups_result_valid(result, &raw mut count);
        let name = |listed: &*const native::rd_kafka_ConsumerGroupListing_t| {
            text(native::rd_kafka_ConsumerGroupListing_group_id(*listed))
        };
        Ok(array(listed, count).iter().map(name).collect())
    }
}

/// # Safety
/// The description belongs to an answer that lives.
unsafe fn group_info(
    group: *const native::rd_kafka_ConsumerGroupDescription_t,
) -> Result<Option<GroupInfo>, Refusal> {
    // SAFETY: the caller's word, for all that follows.
    unsafe {
        let error = native::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            return match native::rd_kafka_error_code(error) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(None),
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => Ok(None),
                _ => Err(refusal(error)),
            };
        }
        let state = native::rd_kafka_ConsumerGroupDescription_state(group);
        // What Kafka calls a group that is not there.
        if state == native::rd_kafka_consumer_group_state_t::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD {
            return Ok(None);
        }
        let kind = native::rd_kafka_ConsumerGroupDescription_type(group);
        let is_simple = native::rd_kafka_ConsumerGroupDescription_is_simple_consumer_group(group) != 0;
        let count = native::rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |index| {
            let member = native::rd_kafka_ConsumerGroupDescription_member(group, index);
            let assignment = native::rd_kafka_MemberDescription_assignment(member);
            let partitions = match assignment.is_null() {
                true => Vec::new(),
                false => positions(native::rd_kafka_MemberAssignment_partitions(assignment))?
                    .into_iter()
                    .map(|(at, _)| at)
                    .collect(),
            };
            Ok(MemberInfo {
                client: text(native::rd_kafka_MemberDescription_client_id(member)),
                host: text(native::rd_kafka_MemberDescription_host(member)),
                partitions,
            })
        };
        Ok(Some(GroupInfo {
            name: text(native::rd_kafka_ConsumerGroupDescription_group_id(group)),
            state: text(native::rd_kafka_consumer_group_state_name(state)),
            kind: text(native::rd_kafka_consumer_group_type_name(kind)).to_lowercase(),
            protocol_type: if is_simple { String::new() } else { "consumer".to_owned() },
            assignor: text(native::rd_kafka_ConsumerGroupDescription_partition_assignor(group)),
            members: (0..count).map(member).collect::<Result<_, _>>()?,
        }))
    }
}

/// Where a group stands.
pub(crate) fn group_positions(
    client: &BaseConsumer<Watch>,
    group: &str,
    patience: Duration,
) -> Result<Vec<(TopicPartition, Position)>, Refusal> {
    let group = c_text(group)?;
    // SAFETY: the name lives as long as the call; no list stands for all partitions.
    let mut asked = unsafe { native::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), ptr::null()) };
    let answer = ask(
        client,
        Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS,
        patience,
        |handle, options, queue| {
            // SAFETY: what is asked is copied, and ours to destroy.
            unsafe {
                native::rd_kafka_ListConsumerGroupOffsets(handle, &raw mut asked, 1, options, queue);
                native::rd_kafka_ListConsumerGroupOffsets_destroy(asked);
            }
        },
    )?;
    // SAFETY: the answer is one to this request, and outlives what is read of it.
    unsafe {
        let result = native::rd_kafka_event_ListConsumerGroupOffsets_result(answer.0.as_ptr());
        let mut count = 0;
        let groups = native::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        let told = group_result(array(groups, count))?;
        let stands = |(at, offset): (TopicPartition, i64)| (offset >= 0).then(|| (at, Offset(offset).into()));
        Ok(told.into_iter().filter_map(stands).collect())
    }
}

/// Makes a group without members stand elsewhere.
pub(crate) fn set_group_positions(
    client: &BaseConsumer<Watch>,
    group: &str,
    to: &[(TopicPartition, Position)],
    patience: Duration,
) -> Result<(), Refusal> {
    let group = c_text(group)?;
    let topics = to.iter().map(|(at, _)| c_text(&at.topic)).collect::<Result<Vec<_>, _>>()?;
    // SAFETY: list and names live as long as the calls, which copy them.
    let mut change = unsafe {
        let list = native::rd_kafka_topic_partition_list_new(i32::try_from(to.len()).unwrap_or(0));
        for ((at, next), topic) in to.iter().zip(&topics) {
            let entry = native::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), at.partition);
            (*entry).offset = Offset::from(*next).0;
        }
        let change = native::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), list);
        native::rd_kafka_topic_partition_list_destroy(list);
        change
    };
    let answer = ask(
        client,
        Operation::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS,
        patience,
        |handle, options, queue| {
            // SAFETY: what is asked is copied, and ours to destroy.
            unsafe {
                native::rd_kafka_AlterConsumerGroupOffsets(handle, &raw mut change, 1, options, queue);
                native::rd_kafka_AlterConsumerGroupOffsets_destroy(change);
            }
        },
    )?;
    // SAFETY: the answer is one to this request, and outlives what is read of it.
    unsafe {
        let result = native::rd_kafka_event_AlterConsumerGroupOffsets_result(answer.0.as_ptr());
        let mut count = 0;
        let groups = native::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &raw mut count);
        group_result(array(groups, count)).map(drop)
    }
}

/// Sets settings of a topic, or takes them back to their defaults.
pub(crate) fn set_topic_configs(
    client: &BaseConsumer<Watch>,
    topic: &str,
    changes: &[(String, Option<String>)],
    patience: Duration,
) -> Result<(), Refusal> {
    use native::rd_kafka_AlterConfigOpType_t as Op;
    let topic = c_text(topic)?;
    let text_of = |(name, value): &(String, Option<String>)| {
        Ok((c_text(name)?, value.as_deref().map(c_text).transpose()?))
    };
    let changes = changes.iter().map(text_of).collect::<Result<Vec<_>, Refusal>>()?;
    // SAFETY: names and values live as long as the calls, which copy them.
    let mut change = unsafe {
        let kind = native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let change = native::rd_kafka_ConfigResource_new(kind, topic.as_ptr());
        for (name, value) in &changes {
            let (op, value) = match value {
                Some(value) => (Op::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET, value.as_ptr()),
                None => (Op::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE, ptr::null()),
            };
            let error =
                native::rd_kafka_ConfigResource_add_incremental_config(change, name.as_ptr(), op, value);
            if !error.is_null() {
                let refusal = refusal(error);
                native::rd_kafka_error_destroy(error);
                native::rd_kafka_ConfigResource_destroy(change);
                return Err(refusal);
            }
        }
        change
    };
    let answer = ask(
        client,
        Operation::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS,
        patience,
        |handle, options, queue| {
            // SAFETY: what is asked is copied, and ours to destroy.
            unsafe {
                native::rd_kafka_IncrementalAlterConfigs(handle, &raw mut change, 1, options, queue);
                native::rd_kafka_ConfigResource_destroy(change);
            }
        },
    )?;
    // SAFETY: the answer is one to this request, and outlives what is read of it.
    unsafe {
        let result = native::rd_kafka_event_IncrementalAlterConfigs_result(answer.0.as_ptr());
        let mut count = 0;
        let resources = native::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count);
        for resource in array(resources, count) {
            match native::rd_kafka_ConfigResource_error(*resource) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                code => {
                    let told = text(native::rd_kafka_ConfigResource_error_string(*resource));
                    return Err(Refusal::new(code, told));
                }
            }
        }
    }
    Ok(())
}

/// What is told of the one group that was asked about.
///
/// # Safety
/// The results belong to an answer that lives.
unsafe fn group_result(
    groups: &[*const native::rd_kafka_group_result_t],
) -> Result<Vec<(TopicPartition, i64)>, Refusal> {
    let Some(group) = groups.first() else { return Ok(Vec::new()) };
    // SAFETY: the caller's word.
    unsafe {
        let error = native::rd_kafka_group_result_error(*group);
        if !error.is_null()
            && native::rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return Err(refusal(error));
        }
        positions(native::rd_kafka_group_result_partitions(*group))
    }
}

/// A list of partitions, each with the offset that is told; fails with the first error in it.
///
/// # Safety
/// The list belongs to an answer that lives, or there is none.
unsafe fn positions(
    list: *const native::rd_kafka_topic_partition_list_t,
) -> Result<Vec<(TopicPartition, i64)>, Refusal> {
    // SAFETY: the caller's word.
    unsafe {
        let Some(list) = list.as_ref() else { return Ok(Vec::new()) };
        let mut positions = Vec::new();
        for index in 0..usize::try_from(list.cnt).unwrap_or(0) {
            let entry = &*list.elems.add(index);
            let at = TopicPartition::new(text(entry.topic), entry.partition);
            if entry.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let told = format!("{at}: {}", text(native::rd_kafka_err2str(entry.err)));
                return Err(Refusal::new(entry.err, told));
            }
            positions.push((at, entry.offset));
        }
        Ok(positions)
    }
}

/// # Safety
/// The error lives.
unsafe fn refusal(error: *const native::rd_kafka_error_t) -> Refusal {
    // SAFETY: the caller's word.
    unsafe { Refusal::new(native::rd_kafka_error_code(error), text(native::rd_kafka_error_string(error))) }
}

fn c_text(text: &str) -> Result<CString, Refusal> {
    CString::new(text).map_err(|_| Refusal::unfit(text))
}

/// A copy of a text; empty where there is none.
///
/// # Safety
/// It ends with a NUL.
unsafe fn text(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: the caller's word.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

/// # Safety
/// There are so many, and they live as long as they are looked at.
unsafe fn array<'a, T>(pointer: *mut *const T, count: usize) -> &'a [*const T] {
    match pointer.is_null() {
        true => &[],
        // SAFETY: the caller's word.
        false => unsafe { std::slice::from_raw_parts(pointer, count) },
    }
}
