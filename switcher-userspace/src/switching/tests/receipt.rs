//! The receipt of a drain (G10): what it says of every flow, whatever happens meanwhile.

use proptest::prelude::*;

use super::*;

/// What happens to blue's flows while it drains.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many end by themselves, of those that are left.
    Finish(u64),
    /// So many are taken up in the middle of a stream.
    TakeUp(u64),
    /// After the deadline: packets come of so many TCP and UDP flows.
    CutByPackets(u64, u64),
    /// A scan, which cuts after the deadline.
    Scan,
    /// The agent is started anew.
    Restart,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..4_u64).prop_map(Event::Finish),
        1 => (0..3_u64).prop_map(Event::TakeUp),
        2 => (0..3_u64, 0..3_u64).prop_map(|(tcp, udp)| Event::CutByPackets(tcp, udp)),
        4 => Just(Event::Scan),
        1 => Just(Event::Restart),
        2 => (0..400_u64).prop_map(Event::Wait),
    ]
}

/// Blue's flows, and what the program has counted of them.
#[derive(Clone, Copy, Debug)]
struct World {
    tcp: u64,
    udp: u64,
    tally: Tally,
}

/// Takes at most `wanted` away from `left`.
fn take(left: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

impl World {
    fn finish(&mut self, flows: u64) {
        let tcp = take(&mut self.tcp, flows);
        let both = tcp + take(&mut self.udp, flows - tcp);
        self.tally.counted.flows_finished += both;
    }

    fn take_up(&mut self, flows: u64) {
        self.tcp += flows;
        self.tally.counted.unpinned_packets += flows;
    }

    fn cut_by_packets(&mut self, tcp: u64, udp: u64) {
        self.tally.cut_by_packets.answered += take(&mut self.tcp, tcp);
        self.tally.cut_by_packets.moved += take(&mut self.udp, udp);
    }

    fn scan(&mut self, action: AtDeadline, is_late: bool, now: Now) -> Saw {
        let mut cut_by_scan = Cuts::default();
        if is_late && action == AtDeadline::Reset {
            cut_by_scan.silent = std::mem::take(&mut self.tcp);
        }
        if is_late && action != AtDeadline::Keep {
            cut_by_scan.moved = std::mem::take(&mut self.udp);
        }
        Saw {
            tally: self.tally,
            cut_by_scan,
            ..saw(now.boot_ms, self.tcp + self.udp, 0)
        }
    }
}

fn policies() -> impl Strategy<Value = AtDeadline> {
    proptest::sample::select(&AtDeadline::ALL[..])
}

/// What a state file keeps.
fn restarted(board: &Switchboard) -> Switchboard {
    let text = serde_json::to_string(board).expect("a state");
    serde_json::from_str(&text).expect("the same state")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn g10_every_flow_that_was_in_flight_is_in_the_receipt_once(
        (tcp, udp) in (0..20_u64, 0..20_u64),
        before in (0..9_u64, 0..9_u64, 0..9_u64, 0..9_u64),
        action in policies(),
        happens in proptest::collection::vec(events(), 0..40),
    ) {
        let counted = Counted { flows_finished: before.0, unpinned_packets: before.1 };
        let cut_by_packets = Cuts { answered: before.2, silent: 0, moved: before.3 };
        let mut world = World { tcp, udp, tally: Tally { cut_by_packets, counted } };
        let mut order = order(&["web"], Some(Color::Green));
        let terms = DrainTerms { timeout_ms: 1_000, at_deadline: action };
        order.drains.insert("web".to_owned(), terms);
        let mut board = board(&["web"]).changed(&order, &Open, START).expect("a flip");
        // What ends before the barrier was not in flight then.
        world.finish(1);
        let in_flight = world.tcp + world.udp;
        let at_barrier = world.tally;
        board.barrier_passed(START, |_, _| at_barrier);
        let (mut now, mut taken_up) = (START, 0);
        let rest = [Event::Wait(1_000), Event::Scan, Event::Scan, Event::Scan];
        for event in happens.into_iter().chain(rest) {
            let is_late = now.boot_ms >= START.plus_ms(1_000).boot_ms;
            if !board.is_draining() {
                break;
            }
            match event {
                Event::Finish(flows) => world.finish(flows),
                Event::TakeUp(flows) if !is_late => {
                    world.take_up(flows);
                    taken_up += flows;
                }
                Event::CutByPackets(tcp, udp) if is_late => match action {
                    AtDeadline::Keep => {}
                    AtDeadline::Move => world.cut_by_packets(0, udp),
                    AtDeadline::Reset => world.cut_by_packets(tcp, udp),
                },
                Event::Scan => {
                    let seen = world.scan(action, is_late, now);
                    board.observe(&seen, now);
                }
                Event::Restart => {
                    board = restarted(&board);
                    // What the flip's barrier has counted stays, whatever is counted now.
                    board.barrier_passed(now, |_, _| world.tally);
                }
                Event::Wait(ms) => now = now.plus_ms(ms),
                Event::TakeUp(_) | Event::CutByPackets(..) => {}
            }
        }
        let drain = board.services["web"].drain.clone().expect("a drain");
        let end = drain.ended.expect("three scans after the deadline end it");
        let receipt = drain.receipt.expect("it was scanned");
        prop_assert_eq!(receipt.counted.unpinned_packets, taken_up);
        prop_assert_eq!(
            receipt.counted.flows_finished + end.cuts.reset() + end.cuts.moved + end.flows_left,
            in_flight + taken_up
        );
        prop_assert_eq!(end.flows_left, world.tcp + world.udp);
    }
}

#[test]
fn g10_the_first_new_flow_is_the_drains_own_and_does_not_change() {
    let first = START.plus_ms(7);
    let scan = |generation, first| Saw {
        first_new_flow: Some((generation, first)),
        newest_packet: Some(START.plus_ms(90)),
        ..saw(START.boot_ms + 10, 5, 5)
    };
    let receipt = |board: &Switchboard| {
        let drain = board.services["web"].drain.as_ref();
        drain
            .and_then(|drain| drain.receipt)
            .expect("it was scanned")
    };
    let mut web = flip(&board(&["web"]), Color::Green, START);
    web.observe(&scan(0, first), START.plus_ms(11));
    assert_eq!(receipt(&web).first_new_flow, None, "of an earlier flip");
    web.observe(&scan(1, first), START.plus_ms(11));
    web.observe(&scan(1, first.plus_ms(1)), START.plus_ms(12));
    assert_eq!(receipt(&web).first_new_flow, Some(first));
    assert_eq!(
        receipt(&web).last_old_packet,
        Some(START.plus_ms(12)),
        "not later than it was read"
    );
    // Taken back: the drain of green has another generation.
    let mut back = flip(&web, Color::Blue, START.plus_ms(20));
    assert_eq!(
        back.services["web"]
            .drain
            .as_ref()
            .and_then(|it| it.receipt),
        None
    );
    let late = Saw {
        began_boot_ms: START.boot_ms + 30,
        ..scan(1, first)
    };
    back.observe(&late, START.plus_ms(30));
    assert_eq!(receipt(&back).first_new_flow, None, "none since then");
}

#[test]
fn a_drain_of_an_agent_that_wrote_no_receipt_still_loads() {
    let mut web = flip(&board(&["web"]), Color::Green, START);
    web.observe(&saw(START.boot_ms, 5, 0), START.plus_ms(1));
    let mut older = serde_json::to_value(&web).expect("a state");
    let drain = older["services"]["web"]["drain"].as_object_mut();
    let drain = drain.expect("a drain");
    assert!(drain.remove("receipt").is_some() && drain.remove("counted_before").is_some());
    let loaded: Switchboard = serde_json::from_value(older).expect("an older state");
    let drain = loaded.services["web"].running_drain().expect("it runs");
    assert_eq!(
        (drain.receipt, drain.counted_before),
        (None, Counted::default())
    );
}
