//! Where groups stand, translated.

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, GroupPositions, Position};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::error::MoveError;
use crate::lane::Matched;
use crate::report::MovedGroup;

/// Groups that are asked about, or written, at the same time: they are many, and the source stands still.
const AT_ONCE: usize = 64;

/// Groups as they were last read in the source, and written to the target.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    written: BTreeMap<String, Vec<(TopicPartition, Position, Position)>>,
}

impl Groups {
    /// Writes where the `wanted` groups stand in what `lanes` move (all groups that stand in any of it, without names), until the
    /// source says the same before and after. What is in the target already is not written again.
    pub(crate) async fn translate(
        &mut self,
        source: &dyn Engine,
        target: &dyn Engine,
        lanes: &[&Matched],
        wanted: Option<&[String]>,
    ) -> Result<(), MoveError> {
        loop {
            let mut changed = self.stand(source, lanes, wanted).await?;
            changed.retain(|(group, positions)| self.written.get(group) != Some(positions));
            if changed.is_empty() {
                return Ok(());
            }
            let writing = changed.iter().map(|(group, positions)| write(target, group, positions).boxed());
            // Boxed: the compiler does not see otherwise that the move can be spawned.
            let writing: Vec<_> = writing.collect();
            stream::iter(writing).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            self.written.extend(changed);
        }
    }

    /// Where groups stand now, on both sides.
    async fn stand(
        &self,
        source: &dyn Engine,
        lanes: &[&Matched],
        wanted: Option<&[String]>,
    ) -> Result<Vec<(String, Vec<(TopicPartition, Position, Position)>)>, MoveError> {
        let names = match wanted {
            Some(names) => names.to_vec(),
            None => {
                let groups = source.admin().groups().await.map_err(MoveError::Source)?;
                groups.into_iter().map(|group| group.name).collect()
            }
        };
        let matched: BTreeMap<_, _> = lanes.iter().map(|lane| (&lane.at, *lane)).collect();
        let asking = names.into_iter().map(|name| {
            let asking = async move {
                let positions = source.admin().group_positions(&name).await.map_err(MoveError::Source)?;
                Ok::<_, MoveError>((name, positions))
            };
            asking.boxed()
        });
        let asking: Vec<_> = asking.collect();
        let told: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).try_collect().await?;
        let mut all = Vec::new();
        for (name, positions) in told {
            let translated = positions.into_iter().filter_map(|(at, position)| {
                let there = matched.get(&at)?.translate(position);
                Some((at, position, there))
            });
            let mut translated: Vec<_> = translated.collect();
            translated.sort_unstable();
            if !translated.is_empty() {
                all.push((name, translated));
            }
        }
        Ok(all)
    }

    pub(crate) fn report(&self) -> Vec<MovedGroup> {
        let group = |(name, positions): (&String, &Vec<_>)| MovedGroup {
            name: name.clone(),
            positions: positions.clone(),
        };
        self.written.iter().map(group).collect()
    }
}

/// Writes, reads back, and compares.
async fn write(
    target: &dyn Engine,
    group: &str,
    positions: &[(TopicPartition, Position, Position)],
) -> Result<(), MoveError> {
    let to = GroupPositions {
        group: group.to_owned(),
        positions: positions.iter().map(|(at, _, there)| (at.clone(), *there)).collect(),
    };
    target.admin().set_group_positions(&to).await.map_err(MoveError::Target)?;
    let found = target.admin().group_positions(group).await.map_err(MoveError::Target)?;
    let found: BTreeMap<_, _> = found.into_iter().collect();
    match to.positions.iter().all(|(at, there)| found.get(at) == Some(there)) {
        true => Ok(()),
        false => Err(MoveError::GroupDiffers { group: group.to_owned() }),
    }
}

/// Whether all of `wanted` are there.
pub(crate) async fn check(source: &dyn Engine, wanted: &[String]) -> Result<(), MoveError> {
    for name in wanted {
        let found: Result<_, EngineError> = source.admin().group(name).await;
        if found.map_err(MoveError::Source)?.is_none() {
            return Err(MoveError::Unknown { what: "group", name: name.clone() });
        }
    }
    Ok(())
}
