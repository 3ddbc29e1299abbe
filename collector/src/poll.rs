//! The loop: at each tick ask what must be known, measure every workload of the owned policies, publish one sample each.
//!
//! What is asked is `query.rs`, what an answer means is `sample.rs` and `usage.rs`; here is when, how many at once, and for how long.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join;
use futures::stream;
use laneguard_proto::subject::{self, Kind, Token};
use laneguard_proto::v1;
use laneguard_runtime::bus::{Bus, Publish, PublishError};
use laneguard_runtime::clock::unix_ms;
use laneguard_runtime::lease::Shards;
use laneguard_runtime::shutdown::Shutdown;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{Instrument, Span};

use crate::args::Names;
use crate::drops::Drops;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::phase::Phase;
use crate::policies::{Known, Placements, Policy, Workload};
use crate::prometheus::{Answer, Error, Prometheus};
use crate::query::{self, Selector};
use crate::sample::{Ask, Scraped, measure};
use crate::series::sources;
use crate::usage::{PodRates, Usage};
use crate::wire::{self, Content, Resumed};

/// How long all samples of a poll may take to be stored; what is not stored by then is given up, the next poll brings news.
const PUBLISH: Duration = Duration::from_secs(2);
/// Publications and reads of last samples under way at the same time.
const MOST_UNDER_WAY: usize = 64;
/// Usage is asked for this often per scrape interval: its answers are large, and nothing changes in between.
const USAGE_PER_INTERVAL: i64 = 4;

/// Asks, measures, publishes.
#[derive(Debug)]
pub struct Poller {
    /// Where telemetry comes from.
    pub prometheus: Prometheus,
    /// Where samples go.
    pub bus: Bus,
    /// What this replica owns.
    pub shards: Shards,
    /// What is to be measured.
    pub known: Known,
    /// What is asked for.
    pub names: Names,
    /// From tick to tick.
    pub interval: Duration,
    /// For all queries of a poll together.
    pub timeout: Duration,
    /// Queries under way at the same time.
    pub concurrency: usize,
    /// What is counted.
    pub metrics: Metrics,
    /// When to stop.
    pub shutdown: Shutdown,
}

/// What is remembered from poll to poll.
#[derive(Debug, Default)]
struct Memory {
    polls: usize,
    phase: Phase,
    latency: HashMap<Selector, Pace>,
    usage: HashMap<Namespaces, UsageMemory>,
    /// By policy and workload.
    workloads: HashMap<(Token, Token), Resumed>,
    /// Of drops and flows, while they were last fresh: what stops being scraped has not become slower.
    scrapes_per_minute: Option<f64>,
    /// How far Prometheus' clock is ahead of ours, milliseconds.
    clock_offset_ms: i64,
    /// Whether the last poll got any answer.
    answered: Option<bool>,
}

type Namespaces = BTreeSet<String>;

#[derive(Debug, Default)]
struct UsageMemory {
    pace: Pace,
    asked_ms: Option<i64>,
    rates: Option<Arc<PodRates>>,
}

/// A question for Prometheus; equal ones are asked once per poll.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Cluster,
    Latency(Selector),
    Usage(Namespaces),
}

impl Question {
    fn kind(&self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Latency(_) => "latency",
            Self::Usage(_) => "usage",
        }
    }
}

/// One workload in one poll, with the span that its trace begins with.
struct Job {
    policy: Arc<Policy>,
    workload: Workload,
    namespaces: Arc<Namespaces>,
    span: Span,
}

impl Job {
    fn key(&self) -> (Token, Token) {
        (self.policy.token.clone(), self.workload.token.clone())
    }

    fn subject(&self, cluster: &Token) -> String {
        let (policy, workload) = (&self.policy.token, &self.workload.token);
        subject::sample(cluster.as_str(), policy.as_str(), workload.as_str())
    }
}

/// What a poll learned.
#[derive(Default)]
struct Findings {
    latency: HashMap<Selector, Result<Scraped, String>>,
    drops: Drops,
    flow_rate: Option<f64>,
}

impl Poller {
    /// Polls until shutdown. Polls never overlap: those that would have begun while one took too long are left out.
    ///
    /// # Errors
    /// None; it has the form of a core task.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut memory = Memory::default();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                () = sleep_until(due) => {}
            }
            let shift_ms = self.poll(&mut memory).await;
            let (next, skipped) = next_poll(due, self.interval, shift_ms, Instant::now());
            self.metrics.skipped.inc_by(skipped);
            due = next;
        }
        self.bus.flush().await;
        Ok(())
    }

    /// Polls once; gives by how many milliseconds the next poll should come later or earlier.
    async fn poll(&self, memory: &mut Memory) -> i64 {
        let placements = self.known.placements.borrow().clone();
        let jobs = self.jobs(&placements);
        self.metrics
            .workloads
            .set(i64::try_from(jobs.len()).unwrap_or(i64::MAX));
        memory.forget_all_but(&jobs);
        if jobs.is_empty() {
            return 0;
        }
        let started = Instant::now();
        let started_ms = unix_ms();
        self.metrics.polls.inc();
        let questions = self.questions(memory, &jobs);
        let (answers, resumed) = join(self.ask(questions), self.resume(memory, &jobs)).await;
        memory.workloads.extend(resumed);
        let findings = self.learn(memory, answers);
        self.publish(memory, &findings, &placements, jobs).await;
        self.metrics
            .poll_duration
            .observe(started.elapsed().as_secs_f64());
        let scraped = findings.latency.values().flatten();
        let newest = scraped.max_by_key(|scraped| scraped.newest_ms);
        memory.phase.shift_ms(
            i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX),
            started_ms + memory.clock_offset_ms,
            newest.and_then(|scraped| scraped.newest_ms),
            newest.and_then(|scraped| scraped.interval_ms),
        )
    }

    /// Every workload of the policies that this replica owns now.
    fn jobs(&self, placements: &Placements) -> Vec<Job> {
        let policies = self.known.policies.borrow().clone();
        let owned = policies
            .values()
            .filter(|policy| self.shards.owns(policy.shard));
        let mut jobs = Vec::new();
        for policy in owned {
            let classes = placements
                .get(&policy.token)
                .map(|p| p.classes.as_slice())
                .unwrap_or_default();
            let pods = classes
                .iter()
                .filter(|class| !class.truncated)
                .flat_map(|class| &class.pods);
            let mut namespaces = Namespaces::new();
            for pod in pods {
                if !namespaces.contains(&pod.namespace) {
                    namespaces.insert(pod.namespace.clone());
                }
            }
            let namespaces = Arc::new(namespaces);
            jobs.extend(policy.workloads.iter().map(|workload| Job {
                policy: policy.clone(),
                workload: workload.clone(),
                namespaces: namespaces.clone(),
                span: tracing::info_span!(
                    parent: None,
                    "collect laneguard.v1.sample",
                    policy = %policy.token,
                    workload = %workload.token,
                    quality = tracing::field::Empty,
                ),
            }));
        }
        jobs
    }

    /// What must be asked, each once, with the span of the first who wants to know.
    fn questions(&self, memory: &mut Memory, jobs: &[Job]) -> Vec<(Question, String, Span)> {
        let now_ms = memory.now_ms();
        let mut seen = HashSet::new();
        let mut questions = Vec::new();
        for job in jobs {
            let mut wanted = vec![
                Question::Cluster,
                Question::Latency(job.workload.selector.clone()),
            ];
            if !job.namespaces.is_empty() {
                wanted.push(Question::Usage((*job.namespaces).clone()));
            }
            for question in wanted {
                if !seen.insert(question.clone()) {
                    continue;
                }
                let Some(promql) = self.promql(memory, &question, now_ms) else {
                    continue;
                };
                questions.push((question, promql, job.span.clone()));
            }
        }
        // when there is not enough time for all, it is not always the same ones that wait
        let first = memory.polls % questions.len().max(1);
        memory.polls = memory.polls.wrapping_add(1);
        questions.rotate_left(first);
        questions
    }

    /// The query, or `None` when it was asked so recently that there is nothing new.
    fn promql(&self, memory: &mut Memory, question: &Question, now_ms: i64) -> Option<String> {
        let Names {
            latency,
            drops,
            flows,
            usage,
        } = &self.names;
        Some(match question {
            Question::Cluster => query::cluster(
                drops,
                flows,
                query::rate_window_s(memory.scrapes_per_minute),
            ),
            Question::Latency(selector) => {
                let pace = memory.latency.entry(selector.clone()).or_default();
                query::latency(latency, selector, pace.window_s(now_ms))
            }
            Question::Usage(namespaces) => {
                let known = memory.usage.entry(namespaces.clone()).or_default();
                let pause_ms = known.pace.interval_ms.unwrap_or(0) / USAGE_PER_INTERVAL;
                if known
                    .asked_ms
                    .is_some_and(|asked| now_ms - asked < pause_ms)
                {
                    return None;
                }
                known.asked_ms = Some(now_ms);
                query::usage(usage, namespaces, known.pace.window_s(now_ms))
            }
        })
    }

    async fn ask(&self, questions: Vec<(Question, String, Span)>) -> Vec<(Question, Asked)> {
        let deadline = Instant::now() + self.timeout;
        let answers: Vec<_> = questions
            .into_iter()
            .map(|(question, promql, parent)| self.ask_one(question, promql, parent, deadline))
            .collect();
        stream::iter(answers)
            .buffer_unordered(self.concurrency)
            .collect()
            .await
    }

    async fn ask_one(
        &self,
        question: Question,
        promql: String,
        parent: Span,
        deadline: Instant,
    ) -> (Question, Asked) {
        let kind = question.kind();
        let span = tracing::debug_span!(parent: &parent, "query", kind, promql);
        let started_ms = unix_ms();
        let result = if Instant::now() < deadline {
            timeout_at(deadline, self.prometheus.query(&promql))
                .instrument(span)
                .await
                .unwrap_or(Err(Error::Timeout))
        } else {
            Err(Error::Timeout)
        };
        let word = result.as_ref().map_or_else(Error::kind, |_| "ok");
        self.metrics.query(kind, word);
        let asked_ms = started_ms + (unix_ms() - started_ms) / 2;
        (question, Asked { result, asked_ms })
    }

    /// For workloads that are new to us: where the last collector stopped. Those it cannot be read for are missing.
    async fn resume(&self, memory: &Memory, jobs: &[Job]) -> Vec<((Token, Token), Resumed)> {
        if !self.bus.is_connected() {
            return Vec::new();
        }
        let deadline = Instant::now() + PUBLISH;
        let new: Vec<_> = jobs
            .iter()
            .filter(|job| !memory.workloads.contains_key(&job.key()))
            .map(|job| self.resume_one(job, deadline))
            .collect();
        let resumed: Vec<_> = stream::iter(new)
            .buffer_unordered(MOST_UNDER_WAY)
            .collect()
            .await;
        resumed.into_iter().flatten().collect()
    }

    async fn resume_one(&self, job: &Job, deadline: Instant) -> Option<((Token, Token), Resumed)> {
        let subject = job.subject(self.bus.cluster());
        let last = timeout_at(
            deadline,
            self.bus.last::<v1::Sample>(Kind::Sample, &subject),
        )
        .await;
        let Ok(Ok(last)) = last else {
            tracing::warn!(subject, "the last sample cannot be read, trying again");
            return None;
        };
        let mut resumed = last.message.map_or_else(Resumed::default, |last| {
            wire::resumed(&last, job.policy.idle_after)
        });
        // Above everything that may have been published and lost with its stream: the clock runs faster than we count.
        let clock = u64::try_from(unix_ms()).unwrap_or_default();
        resumed.sequence = resumed.sequence.max(clock);
        tracing::info!(subject, sequence = resumed.sequence, "sampling");
        Some((job.key(), resumed))
    }

    fn learn(&self, memory: &mut Memory, answers: Vec<(Question, Asked)>) -> Findings {
        let mut findings = Findings::default();
        self.note_availability(memory, &answers);
        for (question, asked) in answers {
            if let Ok(answer) = &asked.result
                && !answer.warnings.is_empty()
            {
                self.metrics.warnings.inc();
            }
            match question {
                Question::Cluster => {
                    let Ok(answer) = asked.result else { continue };
                    let value = |name| signal(&answer, name);
                    findings.flow_rate = value(query::FLOWS);
                    let scrapes = value(query::SCRAPES);
                    let healthy = memory.scrapes_per_minute.or(scrapes);
                    if let Some(now) = value(query::NOW) {
                        findings.drops = Drops::of(
                            millis(now),
                            value(query::DROPS),
                            value(query::SCRAPED).map(millis),
                            query::rate_window_s(memory.scrapes_per_minute) * 1000,
                            query::scrape_interval_ms(healthy),
                        );
                    }
                    let fresh = matches!(findings.drops, Drops::Fresh { .. });
                    memory.scrapes_per_minute = if fresh || value(query::DROPS).is_none() {
                        scrapes
                    } else {
                        healthy
                    };
                    if let Some(seconds) = value(query::NOW) {
                        memory.clock_offset_ms = millis(seconds) - asked.asked_ms;
                        self.metrics
                            .clock_offset
                            .set(memory.clock_offset_ms as f64 / 1000.0);
                    }
                }
                Question::Latency(selector) => {
                    let scraped = asked.result.map_err(|e| e.to_string()).map(|answer| {
                        let warning = (!answer.warnings.is_empty()).then(|| warnings(&answer));
                        Scraped::of(sources(&self.names.latency, &answer.series), warning)
                    });
                    if let Ok(scraped) = &scraped {
                        let pace = memory.latency.entry(selector.clone()).or_default();
                        *pace = pace.learned(scraped.interval_ms, scraped.newest_ms);
                    }
                    findings.latency.insert(selector, scraped);
                }
                Question::Usage(namespaces) => {
                    let known = memory.usage.entry(namespaces).or_default();
                    known.rates = asked
                        .result
                        .ok()
                        .map(|answer| Arc::new(PodRates::of(&answer.series)));
                    if let Some(rates) = &known.rates {
                        known.pace = known.pace.learned(rates.interval_ms, rates.newest_ms);
                    }
                }
            }
        }
        findings
    }

    fn note_availability(&self, memory: &mut Memory, answers: &[(Question, Asked)]) {
        let answered = answers.iter().any(|(_, asked)| asked.result.is_ok());
        self.metrics.prometheus_up.set(answered.into());
        if memory.answered != Some(answered) {
            match answers
                .iter()
                .find_map(|(_, asked)| asked.result.as_ref().err())
            {
                Some(error) if !answered => tracing::warn!(%error, "no query succeeds"),
                _ => tracing::info!("Prometheus answers"),
            }
            memory.answered = Some(answered);
        }
    }

    async fn publish(
        &self,
        memory: &mut Memory,
        findings: &Findings,
        placements: &Placements,
        jobs: Vec<Job>,
    ) {
        let now_ms = memory.now_ms();
        let messages: Vec<(Job, v1::Sample)> = jobs
            .into_iter()
            .filter_map(|job| {
                let message = self.message(memory, findings, placements, &job, now_ms);
                if message.is_none() {
                    self.metrics.not_resumed.inc();
                }
                message.map(|message| (job, message))
            })
            .collect();
        let deadline = Instant::now() + PUBLISH;
        let sent: Vec<_> = messages
            .iter()
            .map(|(job, message)| {
                let span = tracing::debug_span!(
                    parent: &job.span,
                    "send laneguard.v1.sample",
                    sequence = message.sequence,
                );
                self.send(job, message, deadline).instrument(span)
            })
            .collect();
        stream::iter(sent)
            .buffer_unordered(MOST_UNDER_WAY)
            .collect::<()>()
            .await;
    }

    /// Measures a workload. `None` while it is unknown which sequence comes next.
    fn message(
        &self,
        memory: &mut Memory,
        findings: &Findings,
        placements: &Placements,
        job: &Job,
        now_ms: i64,
    ) -> Option<v1::Sample> {
        let rates = memory
            .usage
            .get(&*job.namespaces)
            .and_then(|known| known.rates.clone());
        let usage = usage(rates.as_deref(), placements, &job.policy.token);
        let before = memory.workloads.get_mut(&job.key())?;
        let ask = Ask {
            metric: &self.names.latency,
            targets: &job.workload.targets,
            idle_after: job.policy.idle_after,
        };
        let scraped = match findings.latency.get(&job.workload.selector) {
            Some(Ok(scraped)) => Ok(scraped),
            Some(Err(error)) => Err(error.as_str()),
            None => Err("it was not asked"),
        };
        let (mut measurement, remembered) = measure(now_ms, &ask, scraped, before.memory);
        if job.policy.by_drops {
            measurement = findings.drops.judge(measurement);
        }
        *before = Resumed {
            sequence: before.sequence.saturating_add(1),
            smoothed: before.smoothed.with(&measurement, job.policy.alpha),
            memory: remembered,
        };
        self.metrics.sample(measurement.quality);
        job.span
            .record("quality", tracing::field::debug(measurement.quality));
        if let Some(window) = measurement.window.filter(|_| measurement.quality.usable()) {
            let age_ms = (now_ms - window.end_ms).max(0);
            self.metrics.news_age.observe(age_ms as f64 / 1000.0);
        }
        Some(wire::sample(&Content {
            cluster: self.bus.cluster().as_str(),
            policy: job.policy.token.as_str(),
            workload: job.workload.token.as_str(),
            sequence: before.sequence,
            observed_ms: now_ms,
            measurement: &measurement,
            smoothed: &before.smoothed,
            drop_rate: findings.drops.rate(),
            flow_rate: findings.flow_rate,
            usage: &usage,
        }))
    }

    async fn send(&self, job: &Job, message: &v1::Sample, deadline: Instant) {
        let subject = job.subject(self.bus.cluster());
        let reason = if Instant::now() >= deadline {
            "no time left".to_owned()
        } else if !self.shards.owns(job.policy.shard) {
            "ownership lost meanwhile".to_owned()
        } else {
            match timeout_at(
                deadline,
                self.bus.publish(&subject, message, Publish::default()),
            )
            .await
            {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => {
                    if matches!(error, PublishError::Refused(_)) {
                        tracing::error!(subject, %error, "sample refused");
                    }
                    error.to_string()
                }
                Err(_) => "no acknowledgement in time".to_owned(),
            }
        };
        self.metrics.unpublished.inc();
        tracing::debug!(subject, reason, "sample not published");
    }
}

/// When the poll after the one that was due begins, and how many are left out: one that is late begins at once.
fn next_poll(due: Instant, interval: Duration, shift_ms: i64, now: Instant) -> (Instant, u64) {
    let shift = Duration::from_millis(shift_ms.unsigned_abs());
    let mut next = if shift_ms < 0 {
        due + interval.saturating_sub(shift)
    } else {
        due + interval + shift
    };
    let mut skipped = 0;
    while next + interval <= now {
        next += interval;
        skipped += 1;
    }
    (next, skipped)
}

/// How a question was answered.
struct Asked {
    result: Result<Answer, Error>,
    /// When, by our clock, milliseconds since the Unix epoch.
    asked_ms: i64,
}

impl Memory {
    /// Now by Prometheus' clock, in which scrapes are dated.
    fn now_ms(&self) -> i64 {
        unix_ms() + self.clock_offset_ms
    }

    /// What is no longer ours is read anew when it is ours again.
    fn forget_all_but(&mut self, jobs: &[Job]) {
        let workloads: HashSet<(Token, Token)> = jobs.iter().map(Job::key).collect();
        self.workloads.retain(|key, _| workloads.contains(key));
        let selectors: HashSet<&Selector> = jobs.iter().map(|job| &job.workload.selector).collect();
        self.latency
            .retain(|selector, _| selectors.contains(selector));
        let namespaces: HashSet<&Namespaces> = jobs.iter().map(|job| &*job.namespaces).collect();
        self.usage.retain(|key, _| namespaces.contains(key));
    }
}

/// A value of the query for the whole cluster.
fn signal(answer: &Answer, name: &str) -> Option<f64> {
    answer
        .series
        .iter()
        .find(|series| series.label(query::SIGNAL) == name)
        .and_then(|series| series.values.last())
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
}

/// Prometheus' seconds as milliseconds.
fn millis(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

fn warnings(answer: &Answer) -> String {
    answer.warnings.join(", ").chars().take(300).collect()
}

/// What the classes of a policy send, as far as it is known.
fn usage(rates: Option<&PodRates>, placements: &Placements, policy: &Token) -> Vec<Usage> {
    let classes = placements
        .get(policy)
        .map(|p| p.classes.as_slice())
        .unwrap_or_default();
    rates.map_or_else(Vec::new, |rates| {
        classes
            .iter()
            .filter_map(|class| rates.of_class(class))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_would_overlap_a_late_one_are_left_out_and_the_next_begins_at_once() {
        let due = Instant::now();
        let second = Duration::from_secs(1);
        let after = |ms| due + Duration::from_millis(ms);
        let next = |shift_ms, ms| next_poll(due, second, shift_ms, after(ms));
        assert_eq!(next(0, 20), (after(1000), 0));
        assert_eq!(next(150, 20), (after(1150), 0));
        assert_eq!(next(-300, 20), (after(700), 0));
        // late by less than an interval: at once
        assert_eq!(next(0, 1900), (after(1000), 0));
        assert_eq!(next(0, 3500), (after(3000), 2));
    }

    #[test]
    fn a_signal_that_is_missing_or_not_a_number_is_unknown() {
        let one = |name: &str, value| crate::series::Series {
            labels: [(query::SIGNAL.to_owned(), name.to_owned())].into(),
            values: vec![(0, value)],
            histograms: Vec::new(),
        };
        let answer = Answer {
            series: vec![one(query::DROPS, 30.0), one(query::FLOWS, f64::NAN)],
            warnings: Vec::new(),
        };
        assert_eq!(signal(&answer, query::DROPS), Some(30.0));
        assert_eq!(signal(&answer, query::FLOWS), None);
        assert_eq!(signal(&answer, query::NOW), None);
    }
}
