//! What the simulated disk keeps, and what it loses.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::seam::{Disk, Open};
use anabranch_sim::clock::SimClock;
use anabranch_sim::disk::{Ahead, Fault, SimDisk};
use anabranch_sim::random::Chance;
use anabranch_sim::trace::Trace;

fn disk(seed: u64) -> (SimDisk, SimDisk) {
    let disk = SimDisk::new(Chance::new(seed), Arc::new(SimClock::new()), Trace::default());
    let process = disk.begin_life();
    (disk, process)
}

/// What is in `/d/f` after the power went, over many seeds; `None`: there is no such file.
fn outcomes(does: impl Fn(&SimDisk)) -> BTreeSet<Option<Vec<u8>>> {
    let outcome = |seed| {
        let (disk, process) = disk(seed);
        process.create_dir_all(Path::new("/d")).unwrap();
        process.sync_dir(Path::new("/")).unwrap();
        does(&process);
        disk.kill();
        disk.lose_power();
        disk.begin_life().read(Path::new("/d/f")).ok()
    };
    (0..400).map(outcome).collect()
}

fn write(disk: &SimDisk, bytes: &[u8]) {
    disk.open(Path::new("/d/f"), Open::Create).unwrap().write_all_at(&[bytes], 0).unwrap();
}

#[test]
fn what_is_synced_with_its_name_stays() {
    let all = outcomes(|disk| {
        write(disk, b"bytes");
        disk.open(Path::new("/d/f"), Open::ReadWrite).unwrap().sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    assert_eq!(all, [Some(b"bytes".to_vec())].into());
}

#[test]
fn a_sync_of_a_file_says_nothing_of_its_name() {
    let all = outcomes(|disk| {
        write(disk, b"bytes");
        disk.open(Path::new("/d/f"), Open::ReadWrite).unwrap().sync_data().unwrap();
    });
    assert_eq!(all, [None, Some(b"bytes".to_vec())].into());
}

#[test]
fn a_sync_of_a_name_says_nothing_of_the_bytes() {
    let all = outcomes(|disk| {
        write(disk, b"bytes");
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    assert_eq!(all, [Some(Vec::new()), Some(vec![0; 5]), Some(b"bytes".to_vec())].into());
}

#[test]
fn sectors_are_lost_one_by_one() {
    let all = outcomes(|disk| {
        write(disk, &[7; 1536]);
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    let torn = |present: [u8; 3]| Some(present.map(|byte| [byte; 512]).concat());
    for present in [[0, 7, 7], [7, 0, 7], [7, 7, 0], [0, 0, 7], [7, 7, 7], [0, 0, 0]] {
        assert!(all.contains(&torn(present)), "{present:?}");
    }
}

#[test]
fn a_rename_happens_whole_or_not_at_all_and_a_removed_file_may_come_back() {
    let all = outcomes(|disk| {
        write(disk, b"old");
        disk.open(Path::new("/d/f"), Open::ReadWrite).unwrap().sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        let new = disk.open(Path::new("/d/f.tmp"), Open::Create).unwrap();
        new.write_all_at(&[b"new"], 0).unwrap();
        new.sync_data().unwrap();
        disk.rename(Path::new("/d/f.tmp"), Path::new("/d/f")).unwrap();
    });
    assert_eq!(all, [Some(b"new".to_vec()), Some(b"old".to_vec())].into());
    let all = outcomes(|disk| {
        write(disk, b"old");
        disk.open(Path::new("/d/f"), Open::ReadWrite).unwrap().sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.remove_file(Path::new("/d/f")).unwrap();
    });
    assert_eq!(all, [None, Some(b"old".to_vec())].into());
}

/// As on Linux: the second sync "succeeds", and only what is written again is there.
#[test]
fn a_failed_sync_takes_for_clean_what_it_did_not_write() {
    let attempt = |again: bool| {
        outcomes(move |disk| {
            write(disk, b"bytes");
            disk.sync_dir(Path::new("/d")).unwrap();
            let file = disk.open(Path::new("/d/f"), Open::ReadWrite).unwrap();
            disk.expect(Ahead { sync_fails: Some(0), ..Ahead::default() });
            assert!(file.sync_data().is_err());
            assert_eq!(disk.happened()[0].fault, Fault::SyncFailed);
            if again {
                file.write_all_at(&[b"bytes"], 0).unwrap();
            }
            file.sync_data().unwrap();
        })
    };
    assert!(attempt(false).contains(&Some(vec![0; 5])));
    assert_eq!(attempt(true), [Some(b"bytes".to_vec())].into());
}

#[test]
fn the_death_of_a_process_takes_nothing_but_its_handles() {
    let (disk, process) = disk(1);
    process.create_dir_all(Path::new("/d")).unwrap();
    write(&process, b"bytes");
    let file = process.open(Path::new("/d/f"), Open::ReadWrite).unwrap();
    let lock = process.try_lock(Path::new("/d")).unwrap();
    disk.kill();
    assert!(file.write_all_at(&[b"x"], 0).is_err());
    let next = disk.begin_life();
    assert!(file.write_all_at(&[b"x"], 0).is_err() && process.read(Path::new("/d/f")).is_err());
    assert_eq!(next.read(Path::new("/d/f")).unwrap(), b"bytes");
    let own = next.try_lock(Path::new("/d")).unwrap();
    assert!(own.is_some());
    drop(lock);
    assert!(next.try_lock(Path::new("/d")).unwrap().is_none(), "a dead process's lock gives nothing up");
    drop(own);
    assert!(next.try_lock(Path::new("/d")).unwrap().is_some());
}

#[test]
fn a_full_disk_takes_what_fits_and_then_says_so() {
    let (disk, process) = disk(1);
    let file = process.open(Path::new("/f"), Open::Create).unwrap();
    disk.fill(Some(3));
    assert_eq!(file.write_all_at(&[b"bytes"], 0).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 3);
    disk.fill(None);
    file.write_all_at(&[b"bytes"], 0).unwrap();
    file.reserve(0, 100).unwrap();
    disk.fill(Some(0));
    file.write_all_at(&[&[1; 100]], 0).unwrap();
    assert!(file.write_all_at(&[b"x"], 100).is_err());
}

/// An open file is the file that was opened, whatever becomes of its name.
#[test]
fn a_replaced_file_keeps_its_readers() {
    let (_, process) = disk(1);
    process.create_dir_all(Path::new("/d")).unwrap();
    write(&process, b"old");
    let old = process.open(Path::new("/d/f"), Open::Read).unwrap();
    process.replace(Path::new("/d/f"), b"new").unwrap();
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
    process.remove_file(Path::new("/d/f")).unwrap();
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
}
