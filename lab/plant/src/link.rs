//! The physics: senders under their limits, one FIFO queue, and the critical requests that pass through it.
//!
//! A fluid model in steps of [`STEP`]. A pod is a bundle of TCP flows with one window: slow start, then cubic growth, 0.7 of
//! the share of its flows that lose. A pod at its limit fills its own shaper, not the bottleneck.

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
/// What a lost critical packet costs, milliseconds: the least retransmission timeout.
const RETRANSMIT_MS: f64 = 200.0;

/// One best-effort pod.
#[derive(Clone, Debug)]
struct Pod {
    window: f64,
    slow_start: bool,
    window_at_loss: f64,
    since_loss: f64,
    limit_bps: f64,
    sent_bits: f64,
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
            sent_bits: 0.0,
        };
        Self {
            pods: vec![pod; scenario.pods],
            queue: 0.0,
            due: 0.0,
            stalled_until: 0.0,
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

    /// What each pod has sent so far, bits.
    pub fn sent_bits(&self) -> impl Iterator<Item = f64> {
        self.pods.iter().map(|pod| pod.sent_bits)
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
        let rtt = scenario.rtt + self.queue / link_bps;
        let critical_bits = scenario.request_rate * scenario.request_bits * STEP;
        let mut arriving = critical_bits;
        let mut rates = [0.0; MOST_PODS];
        for (index, (pod, rate)) in self.pods.iter_mut().zip(&mut rates).enumerate() {
            let demand = if index < active { demand } else { Demand::None };
            *rate = pod.rate(scenario.flows, demand, rtt);
            pod.sent_bits += *rate * STEP;
            arriving += *rate * STEP;
        }
        let served = (self.queue + arriving).min(link_bps * STEP);
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
        let load = (arriving / (link_bps * STEP)).min(0.98);
        self.due += scenario.request_rate * STEP;
        while self.due >= 1.0 {
            self.due -= 1.0;
            let random = &mut self.random;
            let noise = (scenario.base_spread * random.normal()).exp();
            // Packets of others in front, as in an M/D/1 queue.
            let wait = load / (2.0 * (1.0 - load)) * PACKET / link_bps * random.exponential();
            let slow_ms = scenario
                .slow_server
                .filter(|span| (span.from..span.to).contains(&at))
                .map_or(0.0, |span| span.value * (0.2 * random.normal()).exp());
            let lost_ms = if random.chance(loss) {
                RETRANSMIT_MS
            } else {
                0.0
            };
            requests.push(Request {
                sent: at,
                latency_ms: scenario.base_ms * noise
                    + (wait + self.queue / link_bps) * 1e3
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
    fn rate(&mut self, flows: usize, demand: Demand, rtt: f64) -> f64 {
        let cap = match demand {
            Demand::None => {
                // The connections end; the next load starts anew.
                self.window = 0.0;
                self.slow_start = true;
                return 0.0;
            }
            Demand::Udp(bps) => return bps.min(self.limit_bps),
            Demand::Capped(bps) => bps.min(self.limit_bps),
            Demand::Tcp => self.limit_bps,
        };
        #[allow(clippy::cast_precision_loss)]
        let flows = flows as f64;
        if self.window <= 0.0 {
            self.window = 10.0 * PACKET * flows;
        }
        self.since_loss += STEP;
        if self.slow_start {
            self.window *= (STEP / rtt).exp2().min(8.0);
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
            .min(cap * (rtt + SHAPER))
            .max(2.0 * PACKET * flows);
        (self.window / rtt).min(cap)
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
