//! ConsumerGroupDescribe (key 69, versions 0 and 1): groups of KIP-848's protocol, and no others.

use anabranch_broker::Catalogue;
use anabranch_broker::group::DescribedConsumer;
use anabranch_core::TopicId;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use anabranch_wire::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};

use super::{Door, codes, operations, text, topic_name};

/// `MemberType`: what protocol it speaks.
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

pub(super) async fn answer(
    door: &Door,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let topics = door.broker.topics();
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for id in request.group_ids {
        let described = DescribedGroup::default().with_group_id(id.clone());
        if id.is_empty() {
            let (code, message) =
                codes::refusal(ErrorCode::InvalidGroupId, "the name of a group must not be empty");
            groups.push(described.with_error_code(code).with_error_message(message));
            continue;
        }
        groups.push(match door.broker.groups().describe_consumer(&id).await {
            Ok(group) => described
                .with_group_state(text(group.state.name()))
                .with_group_epoch(group.epoch)
                .with_assignment_epoch(group.target_epoch)
                .with_assignor_name(text(group.assignor))
                .with_members(group.members.into_iter().map(|each| member(each, &topics)).collect())
                .with_authorized_operations(operations::if_asked(
                    request.include_authorized_operations,
                    operations::ON_GROUP,
                )),
            Err(error) => {
                let (code, message) =
                    codes::refusal(codes::group(&error), format!("group {}: {error}", id.as_str()));
                described.with_error_code(code).with_error_message(message)
            }
        });
    }
    ConsumerGroupDescribeResponse::default().with_groups(groups)
}

fn member(member: DescribedConsumer, topics: &Catalogue) -> Member {
    let about = member.about;
    Member::default()
        .with_member_id(text(&member.member_id))
        .with_instance_id(about.instance_id.as_deref().map(text))
        .with_rack_id(about.rack_id.as_deref().map(text))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&about.client_id))
        .with_client_host(text(&about.client_host))
        .with_subscribed_topic_names(about.topics.iter().map(|name| topic_name(name)).collect())
        // Nullable, and never null in Kafka.
        .with_subscribed_topic_regex(Some(text(about.pattern.as_deref().unwrap_or_default())))
        .with_assignment(assignment(member.assigned, topics))
        .with_target_assignment(assignment(member.target, topics))
        .with_member_type(if about.classic.is_some() { CLASSIC } else { CONSUMER })
}

/// By name as well; what is of no topic any more is left out.
fn assignment(partitions: Vec<(TopicId, Vec<i32>)>, topics: &Catalogue) -> Assignment {
    let named = partitions.into_iter().filter_map(|(id, partitions)| {
        let topic = topics.by_id(id)?;
        Some(
            TopicPartitions::default()
                .with_topic_id(id.0)
                .with_topic_name(topic_name(topic.name()))
                .with_partitions(partitions),
        )
    });
    Assignment::default().with_topic_partitions(named.collect())
}
