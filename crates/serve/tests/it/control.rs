//! The control door: who is there, and topics that are held still while somebody is.

use std::time::Duration;

use anabranch_broker::{Ack, Apply, Broker, NewTopic, Record};
use anabranch_serve::{Answer, Ask, CONTROL_SOCKET, Control, ServeConfig, Server};

async fn append(broker: &Broker) -> bool {
    let topic = broker.topic("t").unwrap();
    topic.append_batch(0, vec![Record::new("k", "v")], Ack::Durable).await.is_ok()
}

#[tokio::test]
async fn what_a_connection_holds_still_goes_on_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).await.unwrap();
    broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    let socket = dir.path().join(CONTROL_SOCKET);
    // One that another server has left.
    std::fs::write(&socket, "").unwrap();
    let config = ServeConfig {
        kafka_addr: "127.0.0.1:0".parse().unwrap(),
        control: Some(socket.clone()),
        ..ServeConfig::default()
    };
    let server = Server::start(broker.clone(), config).await.unwrap();

    let mut control = Control::connect(dir.path()).await.unwrap();
    let who = control.ask(&Ask::Who).await.unwrap();
    let Answer::Who { kafka, cluster, pass } = who else { panic!("{who:?}") };
    assert_eq!((kafka, cluster.as_str()), (server.advertised().to_string(), broker.cluster_id()));
    assert_eq!(pass.len(), 36, "nobody guesses it");
    let begin = Ask::Begin {
        id: "m".to_owned(),
        topics: vec!["t".to_owned()],
        target: "there".to_owned(),
        redirect: None,
    };
    let decide = Ask::Decide { positions_differ: false };
    let hold = Ask::Hold { id: "m".to_owned(), partitions: vec![("t".to_owned(), 0)], lease_ms: 20_000 };
    assert!(matches!(control.ask(&hold).await.unwrap(), Answer::Refused { .. }), "nothing was begun");
    assert_eq!(control.ask(&begin).await.unwrap(), Answer::Begun { moved_to: None, is_redirected: false });
    assert!(matches!(control.ask(&decide).await.unwrap(), Answer::NotYet { .. }), "nothing is held");
    assert_eq!(control.ask(&hold).await.unwrap(), Answer::Done);
    assert!(!append(&broker).await);
    drop(control);
    let goes_on = async {
        while !append(&broker).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Long before the lease is over.
    tokio::time::timeout(Duration::from_secs(10), goes_on).await.unwrap();

    let mut control = Control::connect(dir.path()).await.unwrap();
    assert_eq!(control.ask(&hold).await.unwrap(), Answer::Done);
    assert_eq!(control.ask(&decide).await.unwrap(), Answer::Done);
    assert!(!append(&broker).await);
    assert_eq!(
        control.ask(&begin).await.unwrap(),
        Answer::Begun { moved_to: Some("there".to_owned()), is_redirected: false }
    );
    let forget = |target: &str| Ask::Forget { target: target.to_owned() };
    assert!(matches!(control.ask(&forget("elsewhere")).await.unwrap(), Answer::Refused { .. }));
    assert_eq!(control.ask(&forget("there")).await.unwrap(), Answer::Done);
    assert!(append(&broker).await);
    server.shutdown().await;
    assert!(!socket.exists(), "it goes with the server");
    broker.close().await;
}
