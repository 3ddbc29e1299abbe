//! The physics: senders under their limits, one FIFO queue, and the critical requests that pass through it.
//!
//! A fluid model in steps of [`STEP`]. A pod is a bundle of TCP flows with one window: slow start, then cubic growth, 0.7 of
//! the share of its flows that lose. A pod at its limit fills its own shaper, not the bottleneck.
//!
//! Checked against the kernel network (see [`fit`](crate::fit)); three things are so because of what was measured there. An empty
//! queue fills no faster than the link carries acknowledgements, though a step be many round trips long. Packets in front of a
//! request are few even at 99 % load, for shaped senders are paced. A lost request costs its timeout and the queue again.

use crate::{
    random::Random,
    scenario::{Demand, Scenario},
};

/// Length of a step in seconds.
pub const STEP: f64 = 0.005;
/// Bits of a full packet.
const PACKET: f64 = 12_000.0;
/// How much of its limit a pod's own shaper buffers, in seconds.
const SHAPER: f64 = 0.1;
/// What a lost critical packet costs beside the queue that it and its successor wait in, milliseconds: the least retransmission
/// timeout.
const RETRANSMIT_MS: f64 = 200.0;
/// The load above which packets in front of a request grow no more before there is a queue: measured, shaped senders at 99 %
/// of the link are no burstier than Poisson ones at this.
const PACED_LOAD: f64 = 0.9;
/// A step that is longer than a quarter of the round trip needs the queue at its end to tell what is sent in it.
const STIFF: f64 = 4.0 * STEP;
/// Halvings that find that queue to a millionth of its bounds.
const HALVINGS: usize = 20;

/// One best-effort pod.
#[derive(Clone, Debug)]
struct Pod {
    window: f64,
    slow_start: bool,
    window_at_loss: f64,
    since_loss: f64,
    limit_bps: f64,
    /// The lesser of limit and demand.
    cap_bps: f64,
    sent_bits: f64,
    /// Bits sent in the step before.
    sent_before: f64,
}

/// One critical request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// When it was sent.
    pub sent: f64,
    /// How long it took, milliseconds.
    pub latency_ms: f64,
}

/// The bottleneck and all that sends.
#[derive(Debug)]
pub struct Bottleneck {
    pods: Vec<Pod>,
    queue: f64,
    due: f64,
    stalled_until: f64,
    paused_until: f64,
    random: Random,
    /// Best-effort bits that left the bottleneck.
    pub delivered_bits: f64,
    /// Packets that found the queue full.
    pub dropped_packets: f64,
}

impl Bottleneck {
    /// Everything empty, pods at their starting limit.
    #[must_use]
    pub fn new(scenario: &Scenario, random: Random) -> Self {
        let pod = Pod {
            window: 0.0,
            slow_start: true,
            window_at_loss: 0.0,
            since_loss: 0.0,
            limit_bps: scenario.start_bps,
            cap_bps: 0.0,
            sent_bits: 0.0,
            sent_before: 0.0,
        };
        Self {
            pods: vec![pod; scenario.pods],
            queue: 0.0,
            due: 0.0,
            stalled_until: 0.0,
            paused_until: 0.0,
            random,
            delivered_bits: 0.0,
            dropped_packets: 0.0,
        }
    }

    /// A new limit per pod.
    pub fn set_limit(&mut self, limit_bps: f64) {
        for pod in &mut self.pods {
            pod.limit_bps = limit_bps;
        }
    }

    /// A new limit for one pod; there may be fewer pods.
    pub fn set_pod_limit(&mut self, pod: usize, limit_bps: f64) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.limit_bps = limit_bps;
        }
    }

    /// Bits waiting.
    #[must_use]
    pub fn queue_bits(&self) -> f64 {
        self.queue
    }

    /// What each pod has sent so far, bits.
    pub fn sent_bits(&self) -> impl Iterator<Item = f64> {
        self.pods.iter().map(|pod| pod.sent_bits)
    }

    /// The round trip at the end of a step. Where it is long, the one at its start will do; where it is short, pods with so much
    /// in flight would send the same window many times over, and overflow a queue that they cannot fill.
    fn round_trip(&self, scenario: &Scenario, link_bps: f64, critical_bits: f64) -> f64 {
        let now = scenario.rtt + self.queue / link_bps;
        let queue_after = |rtt: f64| {
            let sent: f64 = self.pods.iter().map(|pod| pod.rate(rtt)).sum();
            self.queue + critical_bits + (sent - link_bps) * STEP
        };
        let explicit = queue_after(now);
        if now >= STIFF || explicit <= 0.0 {
            return now;
        }
        let (mut low, mut high) = (0.0, queue_after(scenario.rtt).max(self.queue));
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if queue_after(scenario.rtt + middle / link_bps) > middle {
                low = middle;
            } else {
                high = middle;
            }
        }
        scenario.rtt + high / link_bps
    }

    /// One step from `at`; adds the requests that were sent in it.
    pub fn step(
        &mut self,
        scenario: &Scenario,
        at: f64,
        demand: Demand,
        active: usize,
        requests: &mut Vec<Request>,
    ) {
        let link_bps = scenario.link_bps(at);
        let critical_bits = scenario.request_rate * scenario.request_bits * STEP;
        for (index, pod) in self.pods.iter_mut().enumerate() {
            let demand = if index < active { demand } else { Demand::None };
            pod.grow(scenario.flows, demand, scenario.rtt + self.queue / link_bps);
        }
        let rtt = self.round_trip(scenario, link_bps, critical_bits);
        let mut arriving = critical_bits;
        let mut rates = [0.0; MOST_PODS];
        for (pod, rate) in self.pods.iter_mut().zip(&mut rates) {
            *rate = pod.rate(rtt);
            pod.sent_before = *rate * STEP;
            pod.sent_bits += pod.sent_before;
            arriving += pod.sent_before;
        }
        // Asked only where it can be: a draw more would change the luck of every other plant.
        if scenario.pauses_per_minute > 0.0
            && self.random.chance(scenario.pauses_per_minute / 60.0 * STEP)
        {
            self.paused_until = at + self.random.between(0.02, 0.05);
        }
        let is_paused = at < self.paused_until;
        let carried = if is_paused { 0.0 } else { link_bps * STEP };
        let served = (self.queue + arriving).min(carried);
        let queue = self.queue + arriving - served;
        let dropped = (queue - scenario.fifo_bits).max(0.0);
        self.queue = queue - dropped;
        self.delivered_bits += (served - critical_bits).max(0.0);
        self.dropped_packets += dropped / PACKET;
        if dropped > 0.0 {
            for (pod, rate) in self.pods.iter_mut().zip(rates) {
                pod.lose(
                    scenario.flows,
                    dropped * rate * STEP / arriving,
                    rtt,
                    &mut self.random,
                );
            }
        }
        if self.random.chance(scenario.stalls_per_minute / 60.0 * STEP) {
            self.stalled_until = at + self.random.between(0.02, 0.1);
        }
        let stalled_ms = (self.stalled_until - at).max(0.0) * 1e3;
        let loss = dropped / arriving;
        let load = (arriving / (link_bps * STEP)).min(PACED_LOAD);
        let queue_ms = self.queue / link_bps * 1e3;
        self.due += scenario.request_rate * STEP;
        while self.due >= 1.0 {
            self.due -= 1.0;
            let random = &mut self.random;
            let noise = (scenario.base_spread * random.normal()).exp();
            // Packets of others in front, as in an M/D/1 queue.
            let wait_ms =
                load / (2.0 * (1.0 - load)) * PACKET / link_bps * 1e3 * random.exponential();
            let slow_ms = scenario
                .slow_server
                .filter(|span| (span.from..span.to).contains(&at))
                .map_or(0.0, |span| span.value * (0.2 * random.normal()).exp());
            let lost_ms = if random.chance(loss) {
                RETRANSMIT_MS + queue_ms
            } else {
                0.0
            };
            requests.push(Request {
                sent: at,
                latency_ms: scenario.base_ms * noise
                    + wait_ms.max(queue_ms)
                    + slow_ms
                    + stalled_ms
                    + lost_ms,
            });
        }
    }
}

/// Most pods of a plant.
pub const MOST_PODS: usize = 16;

impl Pod {
    /// Grows the window by one step at this round trip.
    fn grow(&mut self, flows: usize, demand: Demand, rtt: f64) {
        self.cap_bps = match demand {
            Demand::None => {
                // The connections end; the next load starts anew.
                self.window = 0.0;
                self.slow_start = true;
                self.cap_bps = 0.0;
                return;
            }
            Demand::Udp(bps) => {
                self.window = f64::INFINITY;
                self.cap_bps = bps.min(self.limit_bps);
                return;
            }
            Demand::Capped(bps) => bps.min(self.limit_bps),
            Demand::Tcp => self.limit_bps,
        };
        #[allow(clippy::cast_precision_loss)]
        let flows = flows as f64;
        self.since_loss += STEP;
        if self.window <= 0.0 {
            self.window = 10.0 * PACKET * flows;
        } else if self.slow_start {
            // A packet more for each that was acknowledged.
            let doubled = self.window * ((STEP / rtt).exp2() - 1.0);
            self.window += doubled.min(self.sent_before);
        } else {
            // Cubic: w = 0.4 (t - k)^3 + w_max in packets per flow, and never slower than Reno.
            let at_loss = self.window_at_loss / PACKET / flows;
            let k = (at_loss * 0.3 / 0.4).cbrt();
            let cubic = 0.4 * (self.since_loss - k).powi(3) + at_loss;
            let reno = self.window + 0.5 * PACKET * flows * STEP / rtt;
            self.window = reno.max((cubic * PACKET * flows).min(self.window * 1.1));
        }
        self.window = self
            .window
            .min(self.cap_bps * (rtt + SHAPER))
            .max(2.0 * PACKET * flows);
    }

    /// What it sends at a round trip, with all its window under way or held back by its limit.
    fn rate(&self, rtt: f64) -> f64 {
        (self.window / rtt).min(self.cap_bps)
    }

    fn lose(&mut self, flows: usize, lost_bits: f64, rtt: f64, random: &mut Random) {
        if self.since_loss < rtt || lost_bits <= 0.0 {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let count = flows as f64;
        let hit = 1.0 - (-lost_bits / PACKET / count).exp();
        let losers = (0..flows).filter(|_| random.chance(hit)).count();
        if losers == 0 {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let share = losers as f64 / count;
        self.window_at_loss = self.window;
        self.window *= 1.0 - 0.3 * share;
        self.slow_start = false;
        self.since_loss = 0.0;
    }
}
