// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use proptest::prelude::*;

fn quiet() -> Parameters {
    Parameters {
        noise: 0.0,
        ..Parameters::default()
    }
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn busy(power: &mut Power, percent: f64) {
    for cpu in 0..power.model.parameters().cpus {
        power.model.set_utilization(cpu, percent).unwrap();
    }
}

fn limit(watts: u16) -> Limit {
    Limit {
        action: LogAction::Log,
        watts,
        correction_ms: 3000,
        sampling_s: 1,
    }
}

/// The states and watts of `docs/bmc.md`.
#[test]
fn the_target_follows_state_and_utilization() {
    let mut model = Model::new(quiet());
    assert_eq!(model.target(), 80.0);
    for (performance, utilization, watts) in [
        (100, 100.0, 125.0),
        (80, 100.0, 104.0),
        (81, 100.0, 125.0),
        (60, 50.0, 86.0),
        (1, 100.0, 83.0),
        (0, 100.0, 83.0),
    ] {
        model.set_performance(0, performance).unwrap();
        model.set_utilization(0, utilization).unwrap();
        assert_eq!(
            model.target(),
            watts,
            "at {performance} %, busy {utilization} %"
        );
    }
    assert_eq!(model.set_performance(2, 100), Err(CpuError));
    assert_eq!(model.set_performance(0, 101), Err(CpuError));
    assert_eq!(model.set_utilization(0, 100.1), Err(CpuError));
    assert_eq!(model.set_utilization(0, f64::NAN), Err(CpuError));
}

#[test]
fn power_lags() {
    let mut power = Power::new(quiet(), false, Duration::ZERO);
    busy(&mut power, 100.0);
    power.advance(seconds(2.0));
    let settled = (power.reading() - 80.0) / 90.0;
    assert!(
        (settled - 0.632).abs() < 0.001,
        "after one time constant: {settled}"
    );
    power.advance(seconds(20.0));
    assert!((power.reading() - 170.0).abs() < 0.01);
}

#[test]
fn statistics_are_of_their_period() {
    let mut power = Power::new(quiet(), false, Duration::ZERO);
    busy(&mut power, 100.0);
    power.advance(seconds(30.0));
    let all = power.statistics(seconds(60.0));
    assert!(
        all.minimum == 80.0 && all.maximum > 169.9 && all.average < 169.0,
        "{all:?}"
    );
    let last = power.statistics(seconds(5.0));
    assert!(last.minimum > 169.9 && last.average > 169.9, "{last:?}");
}

#[test]
fn a_limit_is_exceeded_after_its_correction_time() {
    let mut power = Power::new(quiet(), false, Duration::ZERO);
    assert_eq!(power.activate_limit(true), Err(LimitError::NotSet));
    power.set_limit(limit(120)).unwrap();
    power.activate_limit(true).unwrap();
    busy(&mut power, 100.0);
    // The average of a second is over 120 W after some 1.7 s.
    assert_eq!(power.advance(seconds(4.0)), []);
    assert_eq!(power.advance(seconds(5.5)), [Alarm::Exceeded]);
    assert_eq!(power.advance(seconds(60.0)), [], "it is told once");
    assert!(power.reading() > 169.0, "it only tells");
    busy(&mut power, 0.0);
    assert_eq!(power.advance(seconds(90.0)), [Alarm::Kept]);
    assert_eq!(power.advance(seconds(120.0)), []);
}

#[test]
fn a_limit_throttles() {
    let mut power = Power::new(quiet(), true, Duration::ZERO);
    power.set_limit(limit(120)).unwrap();
    power.activate_limit(true).unwrap();
    busy(&mut power, 100.0);
    assert_eq!(power.advance(seconds(60.0)), [Alarm::Exceeded]);
    assert!(power.reading() <= 120.0);
    let throttle = power.model.throttle();
    assert_eq!(power.advance(seconds(300.0)), []);
    assert_eq!(power.model.throttle(), throttle, "it does not swing");
    busy(&mut power, 10.0);
    assert_eq!(power.advance(seconds(330.0)), [Alarm::Kept]);
    assert_eq!(power.model.throttle(), 0);
    busy(&mut power, 100.0);
    power.advance(seconds(360.0));
    power.activate_limit(false).unwrap();
    power.advance(seconds(400.0));
    assert!(power.reading() > 169.0, "without it there is none");
}

#[test]
fn limits_have_limits() {
    let mut power = Power::new(quiet(), false, Duration::ZERO);
    let good = limit(80);
    for (bad, error) in [
        (Limit { watts: 79, ..good }, LimitError::Watts),
        (
            Limit {
                correction_ms: 99,
                ..good
            },
            LimitError::Correction,
        ),
        (
            Limit {
                sampling_s: 0,
                ..good
            },
            LimitError::Sampling,
        ),
        (
            Limit {
                sampling_s: 61,
                ..good
            },
            LimitError::Sampling,
        ),
    ] {
        assert_eq!(power.set_limit(bad), Err(error));
    }
    assert_eq!(power.limit(), None);
    power.set_limit(good).unwrap();
    assert_eq!((power.limit(), power.limit_active()), (Some(&good), false));
    power.forget();
    assert_eq!(power.limit(), None);
}

proptest! {
    /// The same seed and the same inputs at the same times: the same readings, however often it
    /// is asked in between.
    #[test]
    fn readings_depend_on_the_seed_and_the_inputs(
        seed: u64, asked in prop::collection::vec(0u64..20_000, 0..20),
    ) {
        let parameters = Parameters { seed, ..Parameters::default() };
        let mut often = Power::new(parameters.clone(), true, Duration::ZERO);
        let mut once = Power::new(parameters, true, Duration::ZERO);
        busy(&mut often, 50.0);
        busy(&mut once, 50.0);
        let mut asked = asked;
        asked.sort_unstable();
        for at in asked {
            often.advance(Duration::from_millis(at));
        }
        often.advance(seconds(20.0));
        once.advance(seconds(20.0));
        prop_assert_eq!(often.statistics(LONGEST), once.statistics(LONGEST));
    }

    /// Readings stay between idle and the maximum, but for the noise.
    #[test]
    fn readings_are_plausible(
        seed: u64, inputs in prop::collection::vec((0usize..2, 0u8..=100, 0.0f64..=100.0), 1..20),
    ) {
        let parameters = Parameters { seed, ..Parameters::default() };
        let maximum = parameters.maximum();
        let mut power = Power::new(parameters, false, Duration::ZERO);
        for (i, (cpu, performance, utilization)) in inputs.into_iter().enumerate() {
            power.model.set_performance(cpu, performance).unwrap();
            power.model.set_utilization(cpu, utilization).unwrap();
            power.advance(seconds(i as f64));
            let level = power.model.level();
            prop_assert!((79.9..=maximum).contains(&level));
            prop_assert!((power.reading() - level).abs() < 9.0, "more than nine deviations");
        }
    }
}
