//! Dependencies point down: which crate of ours may use which.

use super::Finding;
use super::repository::Room;

/// What a crate of ours may use of ours, and why no more.
struct Allowed {
    room: &'static str,
    uses: &'static [&'static str],
    /// What its tests, benches and examples may use beside that.
    tests_use: &'static [&'static str],
    why: &'static str,
}

/// The one table. A new crate gets its line here.
const ALLOWED: &[Allowed] = &[
    Allowed {
        room: "anabranch-core",
        uses: &[],
        tests_use: &[],
        why: "everything stands on it, so it stands on nothing",
    },
    Allowed {
        room: "anabranch-log",
        uses: &["anabranch-core"],
        tests_use: &[],
        why: "it stores batches, and knows no protocol and no topic",
    },
    Allowed {
        room: "anabranch-wire",
        uses: &["anabranch-core"],
        tests_use: &[],
        why: "frames are bytes in and values out, whoever answers them",
    },
    Allowed {
        room: "anabranch-queue",
        uses: &["anabranch-core"],
        tests_use: &[],
        why: "it is one way to make a queue of any engine's log, so it knows the seam only",
    },
    Allowed {
        room: "anabranch-broker",
        uses: &["anabranch-log", "anabranch-queue", "anabranch-core"],
        tests_use: &[],
        why: "it runs inside applications that open no port, so it knows no protocol",
    },
    Allowed {
        room: "anabranch-diff",
        uses: &["anabranch-wire", "anabranch-core"],
        tests_use: &[],
        why: "it asks two servers over sockets, and knows neither from within",
    },
    Allowed {
        room: "anabranch-serve",
        uses: &["anabranch-broker", "anabranch-wire", "anabranch-core"],
        tests_use: &["anabranch-diff"],
        why: "the doors reach the log through the broker only",
    },
    Allowed {
        room: "anabranch-flow",
        uses: &["anabranch-core"],
        tests_use: &[],
        why: "it lives above the waterline: a flow, and its tests, must run on any engine",
    },
    Allowed {
        room: "anabranch-move",
        uses: &["anabranch-core"],
        tests_use: &["anabranch-broker"],
        why: "it moves what any engine holds to any other, and knows neither",
    },
    Allowed {
        room: "anabranch-engine-kafka",
        uses: &["anabranch-queue", "anabranch-core"],
        tests_use: &[],
        why: "an engine is a neighbour of the embedded one, and needs nothing of it",
    },
    Allowed {
        room: "anabranch-engine-nats",
        uses: &["anabranch-core"],
        tests_use: &[],
        why: "an engine is a neighbour of the embedded one, and needs nothing of it",
    },
    Allowed {
        room: "anabranch-conformance",
        uses: &["anabranch-core"],
        tests_use: &[
            "anabranch-broker",
            "anabranch-engine-kafka",
            "anabranch-engine-nats",
            "anabranch-queue",
        ],
        why: "it asks of every engine the same, and knows none of them",
    },
    Allowed {
        room: "anabranch",
        uses: &[
            "anabranch-core",
            "anabranch-log",
            "anabranch-wire",
            "anabranch-queue",
            "anabranch-broker",
            "anabranch-serve",
            "anabranch-flow",
            "anabranch-move",
            "anabranch-engine-kafka",
            "anabranch-engine-nats",
        ],
        tests_use: &[],
        why: "it is the face that knows every room, but no chores",
    },
    Allowed {
        room: "anabranch-sim",
        uses: &["anabranch-broker", "anabranch-log", "anabranch-core"],
        tests_use: &["anabranch-flow"],
        why: "it drives the engine where the doors would, on seams of its own",
    },
    Allowed {
        room: "anabranch-bench",
        uses: &[
            "anabranch-core",
            "anabranch-wire",
            "anabranch-broker",
            "anabranch-serve",
            "anabranch-engine-kafka",
            "anabranch-engine-nats",
        ],
        tests_use: &[],
        why: "it measures these rooms, each by itself; nothing is built on it",
    },
    Allowed {
        room: "xtask",
        uses: &[],
        tests_use: &[],
        why: "chores must run while everything else is broken",
    },
];

/// Every edge between `rooms` is in the table, and the table names only rooms that exist.
pub(super) fn check(rooms: &[Room]) -> Vec<Finding> {
    check_against(ALLOWED, rooms)
}

fn check_against(table: &[Allowed], rooms: &[Room]) -> Vec<Finding> {
    let is_ours = |name: &str| rooms.iter().any(|room| room.name == name);
    let mut findings = Vec::new();
    for room in rooms {
        let Some(allowed) = table.iter().find(|allowed| allowed.room == room.name) else {
            findings.push(Finding::error(&room.name, format!("has no line in the table of {}", file!())));
            continue;
        };
        for used in room.uses.iter().filter(|used| is_ours(&used.name)) {
            let name = used.name.as_str();
            if !(allowed.uses.contains(&name) || used.dev && allowed.tests_use.contains(&name)) {
                findings.push(Finding::error(&room.name, refusal(allowed, name, used.dev)));
            }
        }
    }
    let gone = table.iter().filter(|allowed| !is_ours(allowed.room));
    findings.extend(gone.map(|allowed| {
        Finding::error(allowed.room, format!("has a line in the table of {} and no crate", file!()))
    }));
    findings
}

fn refusal(allowed: &Allowed, used: &str, dev: bool) -> String {
    let (who, also) = if dev { ("its tests use", allowed.tests_use) } else { ("it uses", &[][..]) };
    let names = [allowed.uses, also].concat();
    let may = if names.is_empty() { "nothing of ours".to_owned() } else { names.join(", ") };
    format!("{who} {used}; allowed: {may}, because {}", allowed.why)
}

#[cfg(test)]
mod tests {
    use super::super::repository::Use;
    use super::*;

    const TABLE: &[Allowed] = &[
        Allowed { room: "base", uses: &[], tests_use: &[], why: "it is the base" },
        Allowed { room: "kit", uses: &[], tests_use: &[], why: "it is a kit" },
        Allowed { room: "top", uses: &["base"], tests_use: &["kit"], why: "it is the top" },
    ];

    fn room(name: &str, uses: &[(&str, bool)]) -> Room {
        let uses = uses.iter().map(|&(name, dev)| Use { name: name.to_owned(), dev }).collect();
        Room { name: name.to_owned(), uses }
    }

    /// What is said about `top` when it uses this.
    fn told(uses: &[(&str, bool)]) -> Vec<String> {
        let rooms = [room("base", &[]), room("kit", &[]), room("top", uses)];
        check_against(TABLE, &rooms).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_table_allows_passes() {
        assert!(told(&[("base", false), ("base", true), ("kit", true), ("serde", false)]).is_empty());
    }

    #[test]
    fn any_other_edge_is_refused_with_the_reason() {
        let refused = ["error: top: it uses kit; allowed: base, because it is the top"];
        assert_eq!(told(&[("kit", false)]), refused);
    }

    #[test]
    fn tests_are_held_to_their_own_column() {
        let rooms = [room("base", &[("top", true)]), room("kit", &[]), room("top", &[])];
        let findings = check_against(TABLE, &rooms);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].what, "its tests use top; allowed: nothing of ours, because it is the base");
    }

    #[test]
    fn a_crate_without_a_line_and_a_line_without_a_crate_are_told() {
        let findings = check_against(TABLE, &[room("base", &[]), room("top", &[]), room("new", &[])]);
        let places: Vec<_> = findings.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["new", "kit"]);
    }

    /// The edge that the waterline exists to forbid.
    #[test]
    fn a_flow_may_not_use_the_broker_even_in_its_tests() {
        let mut rooms: Vec<_> = ALLOWED.iter().map(|allowed| room(allowed.room, &[])).collect();
        assert_eq!(check(&rooms), []);
        for dev in [false, true] {
            rooms.retain(|room| room.name != "anabranch-flow");
            rooms.push(room("anabranch-flow", &[("anabranch-broker", dev)]));
            assert_eq!(check(&rooms).len(), 1, "dev: {dev}");
        }
    }

    #[test]
    fn the_table_points_down() {
        // Its lines are sorted so that a room stands below what it uses.
        for (at, allowed) in ALLOWED.iter().enumerate() {
            for used in allowed.uses.iter().chain(allowed.tests_use) {
                assert!(
                    ALLOWED[..at].iter().any(|above| above.room == *used),
                    "{} uses {used}",
                    allowed.room
                );
            }
        }
    }
}
