//! The order of the runs. Fair: the laws take turns, so that whatever drifts on the machine over an hour meets all of them, and a
//! different one begins each round, so that none always follows the same other.

/// One run to make; scenario and law by their places in the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Which scenario.
    pub scenario: usize,
    /// Which law.
    pub law: usize,
    /// Which repetition, from 1.
    pub number: usize,
}

/// All runs in order: the first of every law on every scenario, then the second, and so on.
#[must_use]
pub fn order(scenarios: usize, laws: &[usize], runs: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for number in 1..=runs {
        for scenario in 0..scenarios {
            let laws = laws.get(scenario).copied().unwrap_or(0);
            jobs.extend((0..laws).map(|place| Job {
                scenario,
                law: (place + number - 1) % laws,
                number,
            }));
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_comes_once_and_no_law_is_a_round_ahead() {
        let jobs = order(2, &[3, 4], 5);
        assert_eq!(jobs.len(), 5 * 7);
        for (index, job) in jobs.iter().enumerate() {
            assert!(!jobs[..index].contains(job), "{job:?} comes twice");
            assert_eq!(job.number, index / 7 + 1);
        }
    }

    #[test]
    fn another_law_begins_each_round() {
        let first: Vec<usize> = order(1, &[3], 3)
            .chunks(3)
            .map(|round| round[0].law)
            .collect();
        assert_eq!(first, [0, 1, 2]);
    }
}
