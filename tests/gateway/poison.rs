//! An event that kills the gateway, whenever it is worked on.

use crate::{exact::Plant, kit::Gateway};
use serde_json::json;
use std::{thread, time::Duration};

#[test]
fn an_event_that_kills_the_gateway_is_set_aside_and_the_others_get_on() {
    const EVENTS: usize = 40;
    let program = r#"body=$(cat); case $body in *poison*) kill -9 $PPID; sleep 1;; esac; echo \"$body\""#;
    for workers in [1, 8] {
        let plant = Plant::new(&format!(
            r#"{{ "p": {{ "from": ["web"], "to": ["cloud"], "workers": {workers}, "processes": [
          {{ "type": "spawn", "program": "/bin/sh", "args": ["-c", "{program}"] }},
          {{ "type": "aggregate", "name": "count", "field": "v", "op": "count" }} ] }} }}"#
        ));
        let event = |n: usize| json!({ "id": format!("e{n}"), "v": if n == 10 { "poison" } else { "good" } });
        let mut gateway = plant.start();
        // They are taken in at once; whoever is not answered before a death comes again.
        let hands = plant.post((0..EVENTS).map(event).collect());
        let mut deaths = 0;
        while plant.arrived().len() < EVENTS - 1 || !hands.iter().all(thread::JoinHandle::is_finished) {
            if gateway.has_ended() {
                deaths += 1;
                assert!(deaths < 10, "{}", gateway.log());
                gateway = Gateway::start(plant.dir.path(), &plant.configuration, &[]);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let arrived = plant.arrived();
        assert!(!arrived.contains_key("e10"), "{deaths} deaths");
        assert_eq!(arrived.len(), EVENTS - 1);
        assert!((3..=4).contains(&deaths), "{deaths} deaths");
        assert!(gateway.log().contains("`e10` has killed the gateway again and again and is set aside"));
        assert!(gateway.stop().success());
    }
}
