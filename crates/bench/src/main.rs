//! What measures, one command each; `cargo xtask bench` runs them and makes tables of what they print.
//!
//! * `produce`, `fetch`, `tail`, `transactions`: a client that does as little as a client can, so that the server is the limit.
//!   `librdkafka` is a real one.
//!   `engine` is the client of an engine, with and without the Engine seam. `sink` is a server that does nothing, and shows what the client's own limit is. `groups` and
//!   `many-groups` are members of consumer groups.
//! * `disk`, `loopback`: what the machine can do without us.
//! * `append`, `fill`, `open`: the broker in process.
//! * `path`: the produce path so many times, for whoever counts instructions or looks for where the time goes.
//!
//! Each prints one JSON object. None of this is shipped.

mod append;
mod directory;
mod disk;
#[cfg(feature = "clients")]
mod engine;
mod fetch;
mod groups;
mod latency;
#[cfg(feature = "clients")]
mod librdkafka;
mod loopback;
mod path;
mod produce;
mod request;
mod sink;
mod tail;
mod topic;
mod transactions;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "anabranch-bench")]
enum Command {
    /// Produces through many connections, whatever answers at the other end
    Produce(produce::Options),
    /// Fetches a topic from its beginning to its end
    Fetch(fetch::Options),
    /// Sends one record at a time, and waits until a consumer has it
    Tail(tail::Options),
    /// Commits transactions, one after the other through each connection
    Transactions(transactions::Options),
    /// Produces with librdkafka
    #[cfg(feature = "clients")]
    Librdkafka(librdkafka::Options),
    /// Produces or consumes through an engine, or with the client below it
    #[cfg(feature = "clients")]
    Engine(engine::Options),
    /// Answers every produce request at once, and keeps nothing
    Sink(sink::Options),
    /// Joins a group with many members, of which one leaves, comes back, and dies
    Groups(groups::Options),
    /// Makes many groups of one member
    ManyGroups(groups::many::Make),
    /// Lists groups
    ListGroups(groups::many::List),
    /// Creates a topic, and waits until it is there
    CreateTopic(topic::Create),
    /// Deletes a topic
    DeleteTopic(topic::Delete),
    /// Writes and syncs without any server
    Disk(disk::Options),
    /// Sends a file over loopback with `sendfile`
    Loopback(loopback::Options),
    /// Appends records in process, one after the other
    Append(append::Options),
    /// Fills a data directory
    Fill(directory::Fill),
    /// Opens a data directory
    Open(directory::Open),
    /// Produces so many times on one thread
    Path(path::Options),
}

fn main() -> anyhow::Result<()> {
    let told = match Command::parse() {
        Command::Produce(options) => serde_json::to_value(produce::run(&options)?),
        Command::Fetch(options) => serde_json::to_value(fetch::run(&options)?),
        Command::Tail(options) => serde_json::to_value(tail::run(&options)?),
        Command::Transactions(options) => serde_json::to_value(transactions::run(&options)?),
        #[cfg(feature = "clients")]
        Command::Librdkafka(options) => serde_json::to_value(librdkafka::run(&options)?),
        #[cfg(feature = "clients")]
        Command::Engine(options) => serde_json::to_value(engine::run(&options)?),
        Command::Sink(options) => return sink::run(&options),
        Command::Groups(options) => serde_json::to_value(groups::run(&options)?),
        Command::ManyGroups(options) => return groups::many::make(&options),
        Command::ListGroups(options) => serde_json::to_value(groups::many::list(&options)?),
        Command::CreateTopic(options) => serde_json::to_value(topic::create(&options)?),
        Command::DeleteTopic(options) => serde_json::to_value(topic::delete(&options)?),
        Command::Disk(options) => serde_json::to_value(disk::run(&options)?),
        Command::Loopback(options) => serde_json::to_value(loopback::run(&options)?),
        Command::Append(options) => serde_json::to_value(append::run(&options)?),
        Command::Fill(options) => serde_json::to_value(directory::fill(&options)?),
        Command::Open(options) => serde_json::to_value(directory::open(&options)?),
        Command::Path(options) => serde_json::to_value(path::run(&options)?),
    };
    println!("{}", told?);
    Ok(())
}
