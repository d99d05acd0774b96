//! Who has which partition of a topic: never two members, and in the end each has one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};

const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Owners(Vec<AtomicU32>);

impl Owners {
    pub(super) fn of(partitions: u32) -> Self {
        Self((0..partitions).map(|_| AtomicU32::new(NOBODY)).collect())
    }

    /// A member has `after` from now on, and had `before`. It tells the server afterwards that it gave something up, so that nobody
    /// can have been given that already.
    pub(super) fn change(&self, member: usize, before: &[i32], after: &[i32]) -> anyhow::Result<()> {
        let member = u32::try_from(member)?;
        for partition in before.iter().filter(|partition| !after.contains(partition)) {
            self.at(*partition)?.store(NOBODY, Ordering::SeqCst);
        }
        for partition in after.iter().filter(|partition| !before.contains(partition)) {
            let taken =
                self.at(*partition)?.compare_exchange(NOBODY, member, Ordering::SeqCst, Ordering::SeqCst);
            if let Err(other) = taken {
                bail!("partition {partition} was given to member {member}, and member {other} has it");
            }
        }
        Ok(())
    }

    fn at(&self, partition: i32) -> anyhow::Result<&AtomicU32> {
        let slot = usize::try_from(partition).ok().and_then(|partition| self.0.get(partition));
        slot.with_context(|| format!("partition {partition} was assigned, and is none of the topic"))
    }

    /// Fails unless each partition has an owner, and none of so many members more than one above another.
    pub(super) fn check_complete(&self, members: usize) -> anyhow::Result<()> {
        let mut shares = HashMap::new();
        for (partition, owner) in self.0.iter().enumerate() {
            let owner = owner.load(Ordering::SeqCst);
            ensure!(owner != NOBODY, "partition {partition} has no owner");
            *shares.entry(owner).or_insert(0_usize) += 1;
        }
        let least = self.0.len() / members;
        let with_any = if least == 0 { self.0.len() } else { members };
        if let Some((owner, share)) = shares.iter().find(|(_, share)| !(least..=least + 1).contains(share)) {
            bail!("member {owner} of {members} has {share} of {} partitions", self.0.len());
        }
        ensure!(shares.len() == with_any, "{} of {members} members have partitions", shares.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_owner() {
        let owners = Owners::of(4);
        owners.change(0, &[], &[0, 1, 2]).unwrap();
        let refused = |owners: &Owners| owners.check_complete(2).unwrap_err().to_string();
        assert_eq!(refused(&owners), "partition 3 has no owner");
        let error = owners.change(1, &[], &[2, 3]).unwrap_err().to_string();
        assert_eq!(error, "partition 2 was given to member 1, and member 0 has it");
        owners.change(0, &[0, 1, 2], &[0, 1]).unwrap();
        owners.change(1, &[], &[2, 3]).unwrap();
        owners.check_complete(2).unwrap();
        assert!(owners.change(1, &[2, 3], &[2, 3, 4]).unwrap_err().to_string().contains("partition 4"));
        assert!(owners.change(1, &[2, 3], &[2, 3, -1]).is_err());
    }

    #[test]
    fn shares_are_even() {
        let owners = Owners::of(5);
        owners.change(0, &[], &[0, 1, 2]).unwrap();
        owners.change(1, &[], &[3, 4]).unwrap();
        owners.check_complete(2).unwrap();
        owners.check_complete(3).unwrap_err();
        owners.change(0, &[0, 1, 2], &[0, 1, 2]).unwrap();
        owners.change(1, &[3, 4], &[3]).unwrap();
        owners.change(0, &[0, 1, 2], &[0, 1, 2, 4]).unwrap();
        owners.check_complete(2).unwrap_err();
        owners.check_complete(1).unwrap_err();
    }

    #[test]
    fn more_members_than_partitions_leave_some_with_nothing() {
        let owners = Owners::of(2);
        owners.change(0, &[], &[0]).unwrap();
        owners.change(4, &[], &[1]).unwrap();
        owners.check_complete(5).unwrap();
        owners.check_complete(1).unwrap_err();
    }
}
