//! What the twin adds to the bus's promises: loss, delay, doubles, cuts.

use futures::StreamExt;

use super::*;

fn message(subject: &str) -> Message {
    Message { subject: subject.to_owned(), ..Message::default() }
}

#[tokio::test]
async fn the_same_seed_chooses_the_same_members_of_a_queue_group() {
    let run = |seed| async move {
        let switch = MemSwitch::new(seed);
        let bus = switch.bus();
        let mut first = bus.subscribe("a", Some("q"), 64).await.unwrap();
        let _second = bus.subscribe("a", Some("q"), 64).await.unwrap();
        let mut got = Vec::new();
        for _ in 0..64 {
            bus.publish(message("a")).await.unwrap();
            got.push(futures::FutureExt::now_or_never(first.next()).is_some());
        }
        got
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

#[tokio::test]
async fn a_bus_cut_off_gets_nothing_and_its_group_serves_on() {
    let switch = MemSwitch::new(1);
    let (one, two, sender) = (switch.bus(), switch.bus(), switch.bus());
    let mut cut = one.subscribe("a", Some("q"), 64).await.unwrap();
    let mut serving = two.subscribe("a", Some("q"), 64).await.unwrap();
    one.set_connected(false);
    for _ in 0..16 {
        sender.publish(message("a")).await.unwrap();
    }
    assert_eq!(serving.by_ref().take(16).count().await, 16);
    assert!(futures::FutureExt::now_or_never(cut.next()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_a_time_out_for_who_waits_for_its_answer() {
    let switch = MemSwitch::new(1);
    let bus = switch.bus();
    let _deaf = bus.subscribe("a", None, 1).await.unwrap();
    switch.set_loss(1.0);
    let timeout = Duration::from_secs(60);
    let outcome = bus.request("a", Vec::new(), Bytes::new(), timeout).await;
    assert_eq!(outcome, Err(RequestError::Timeout("a".to_owned(), timeout)));
    assert_eq!(bus.pending(), 0);
}

async fn texts(source: &mut Subscription, count: usize) -> Vec<Bytes> {
    source.take(count).map(|message| message.payload).collect().await
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_keep_their_order_per_subject_and_overtake_each_other_across_subjects() {
    let switch = MemSwitch::new(1);
    let (sender, bus) = (switch.bus(), switch.bus());
    let mut all = bus.subscribe("a.*", None, 64).await.unwrap();
    switch.set_faults(BusFaults { delay: Duration::from_millis(50), ..BusFaults::default() });
    for n in 0..20u8 {
        let subject = if n % 2 == 0 { "a.even" } else { "a.odd" };
        sender.publish(Message { payload: Bytes::copy_from_slice(&[n]), ..message(subject) }).await.unwrap();
    }
    let got: Vec<u8> = texts(&mut all, 20).await.iter().map(|payload| payload[0]).collect();
    let of = |rest: u8| got.iter().copied().filter(|n| n % 2 == rest).collect::<Vec<_>>();
    assert!(of(0).is_sorted() && of(1).is_sorted(), "{got:?}");
    assert!(!got.is_sorted(), "{got:?}");
    assert!(switch.fired().delayed > 10 && switch.fired().reordered > 0);
}

#[tokio::test(start_paused = true)]
async fn messages_come_twice_and_a_request_is_answered_once_all_the_same() {
    let switch = MemSwitch::new(1);
    let (caller, bus) = (switch.bus(), switch.bus());
    let mut asked = bus.subscribe("a", None, 8).await.unwrap();
    switch.set_faults(BusFaults { duplicate: 1.0, ..BusFaults::default() });
    let answering = async {
        for _ in 0..2 {
            let reply = asked.next().await.unwrap().reply.unwrap();
            bus.publish(message(&reply)).await.unwrap();
        }
    };
    let asking = caller.request("a", Vec::new(), Bytes::new(), Duration::from_secs(1));
    let (answer, ()) = tokio::join!(asking, answering);
    assert!(answer.is_ok());
    assert_eq!(switch.fired().duplicated, 1);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_cannot_send_does_not_know_it_and_one_that_cannot_receive_takes_its_share() {
    let switch = MemSwitch::new(1);
    let (one, two) = (switch.bus(), switch.bus());
    let mut source = two.subscribe("a", None, 8).await.unwrap();
    one.set_carries(false, true);
    one.publish(message("a")).await.unwrap();
    let timeout = Duration::from_secs(1);
    let outcome = one.request("a", Vec::new(), Bytes::new(), timeout).await;
    assert_eq!(outcome, Err(RequestError::Timeout("a".to_owned(), timeout)));
    one.set_carries(true, true);
    two.set_carries(true, false);
    one.publish(message("a")).await.unwrap();
    assert!(futures::FutureExt::now_or_never(source.next()).is_none());
    assert_eq!(switch.fired().swallowed, 3);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_listens_is_told_as_late_as_an_answer_would_be() {
    let switch = MemSwitch::new(1);
    let bus = switch.bus();
    bus.set_delay(Duration::from_millis(50));
    let outcome = bus.request("a", Vec::new(), Bytes::new(), Duration::from_secs(1)).await;
    assert_eq!(outcome, Err(RequestError::NoResponders("a".to_owned())));
    assert!(switch.fired().delayed > 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_gets_nothing_until_it_is_known_which_whatever_its_bus_sends_next_brings_about() {
    let switch = MemSwitch::new(1);
    switch.set_faults(BusFaults { subscribe: Duration::from_millis(1000), ..BusFaults::default() });
    let (listener, sender) = (switch.bus(), switch.bus());
    for (round, then) in ["nothing", "flush", "publish", "trip", "wait"].into_iter().enumerate() {
        let mut source = listener.subscribe("a", None, 8).await.unwrap();
        match then {
            "flush" => listener.flush().await.unwrap(),
            "publish" => listener.publish(message("b")).await.unwrap(),
            "trip" => listener.made_round_trip(),
            "wait" => tokio::time::sleep(Duration::from_millis(1001)).await,
            _ => {}
        }
        sender.publish(message("a")).await.unwrap();
        assert_eq!(futures::FutureExt::now_or_never(source.next()).is_some(), then != "nothing", "{then}");
        assert_eq!(switch.fired().subscribed_late, round as u64 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_a_subscription_keeps_its_order_and_is_lost_with_it() {
    let switch = MemSwitch::new(1);
    switch.set_faults(BusFaults { delay_in: Duration::from_millis(50), ..BusFaults::default() });
    let (listener, sender) = (switch.bus(), switch.bus());
    let mut source = listener.subscribe("a.*", None, 64).await.unwrap();
    let subjects: Vec<String> = (0..32).map(|n| format!("a.{n}")).collect();
    for subject in &subjects {
        sender.publish(message(subject)).await.unwrap();
    }
    let got: Vec<String> = source.by_ref().take(32).map(|message| message.subject).collect().await;
    assert_eq!(got, subjects);
    sender.publish(message("a.b")).await.unwrap();
    drop(source);
    let mut next = listener.subscribe("a.*", None, 64).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), next.next()).await.is_err());
}
