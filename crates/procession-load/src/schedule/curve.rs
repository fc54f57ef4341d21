use crate::plan::{RateStage, UserStage};

/// How many arrivals there have been after so many seconds: the integral of a rate that changes evenly within segments.
#[derive(Debug, Clone)]
pub(super) struct RateCurve {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    start: f64,
    seconds: f64,
    position: f64,
    rate: f64,
    /// By how much the rate grows each second.
    slope: f64,
}

impl Segment {
    fn position_after(&self, seconds: f64) -> f64 {
        self.position + self.rate * seconds + self.slope * seconds * seconds / 2.0
    }
}

impl RateCurve {
    pub(super) fn constant(rate: f64) -> RateCurve {
        RateCurve {
            segments: vec![Segment {
                start: 0.0,
                seconds: f64::INFINITY,
                position: 0.0,
                rate,
                slope: 0.0,
            }],
        }
    }

    pub(super) fn staged(start_rate: f64, stages: &[RateStage]) -> RateCurve {
        let (mut start, mut position, mut rate) = (0.0, 0.0, start_rate);
        let mut segments = Vec::new();
        for stage in stages {
            let seconds = stage.duration.as_secs_f64();
            if seconds > 0.0 {
                let slope = (stage.per_second - rate) / seconds;
                segments.push(Segment {
                    start,
                    seconds,
                    position,
                    rate,
                    slope,
                });
                position += (rate + stage.per_second) / 2.0 * seconds;
                start += seconds;
            }
            rate = stage.per_second;
        }
        RateCurve { segments }
    }

    /// When the curve reaches this position, in seconds; `None` if it never does.
    pub(super) fn when(&self, position: f64) -> Option<f64> {
        let segment = self.segments.iter().find(|segment| {
            segment.seconds.is_infinite() || position < segment.position_after(segment.seconds)
        })?;
        let ahead = (position - segment.position).max(0.0);
        let seconds = if segment.slope == 0.0 {
            ahead / segment.rate
        } else {
            // The root of the segment's parabola, in the form that loses no digits when the slope is small.
            let root = (segment.rate * segment.rate + 2.0 * segment.slope * ahead)
                .max(0.0)
                .sqrt();
            if segment.rate + root > 0.0 {
                2.0 * ahead / (segment.rate + root)
            } else {
                0.0
            }
        };
        Some(segment.start + seconds)
    }

    pub(super) fn position_at(&self, seconds: f64) -> f64 {
        let segment = self.segment_at(seconds);
        segment.map_or(0.0, |segment| {
            segment.position_after((seconds - segment.start).clamp(0.0, segment.seconds))
        })
    }

    pub(super) fn rate_at(&self, seconds: f64) -> f64 {
        let segment = self.segment_at(seconds);
        segment.map_or(0.0, |segment| {
            segment.rate + segment.slope * (seconds - segment.start).clamp(0.0, segment.seconds)
        })
    }

    fn segment_at(&self, seconds: f64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| seconds < segment.start + segment.seconds)
            .or(self.segments.last())
    }
}

/// How many users there are after so many seconds.
#[derive(Debug, Clone)]
pub(super) struct UserCurve {
    /// Moments and numbers, between which it goes evenly.
    corners: Vec<(f64, u32)>,
}

impl UserCurve {
    pub(super) fn constant(users: u32) -> UserCurve {
        UserCurve {
            corners: vec![(0.0, users)],
        }
    }

    pub(super) fn staged(start: u32, stages: &[UserStage]) -> UserCurve {
        let mut corners = vec![(0.0, start)];
        let mut end = 0.0;
        for stage in stages {
            end += stage.duration.as_secs_f64();
            corners.push((end, stage.users));
        }
        UserCurve { corners }
    }

    pub(super) fn at(&self, seconds: f64) -> u32 {
        let after = self.corners.partition_point(|&(moment, _)| moment <= seconds);
        let (from, users) = self.corners[after.saturating_sub(1)];
        let Some(&(to, next)) = self.corners.get(after) else {
            return users;
        };
        let share = (seconds - from) / (to - from);
        let between = f64::from(users) + (f64::from(next) - f64::from(users)) * share;
        // Rounded as needed for a user to come exactly when it is due.
        (between + 1e-9).floor() as u32
    }

    pub(super) fn most(&self) -> u32 {
        self.corners.iter().map(|&(_, users)| users).max().unwrap_or(0)
    }

    pub(super) fn changes(&self) -> bool {
        self.corners.len() > 1
    }
}
