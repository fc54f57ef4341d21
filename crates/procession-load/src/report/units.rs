//! Figures with their units, as people read them. The command uses them for all that it prints.

use std::time::Duration;

/// A number with about three significant digits.
fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A rate, such as `81.3 items/s`.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() {
        return "- items/s".to_owned();
    }
    let digits = three_digits(per_second);
    format!(
        "{} items/s",
        if per_second >= 1000.0 {
            grouped(per_second.round() as u64)
        } else {
            digits
        }
    )
}

/// A rate of requests, such as `81.3/s` or `1,235/s`.
pub fn per_second(value: f64) -> String {
    rate(value).replace(" items", "")
}

/// A number of bytes, such as `999 B`, `1.25 kB` or `12.5 MB`.
pub fn bytes(count: f64) -> String {
    match count {
        count if count < 999.5 => format!("{count:.0} B"),
        count if count < 999_500.0 => format!("{} kB", three_digits(count / 1e3)),
        count if count < 999_500_000.0 => format!("{} MB", three_digits(count / 1e6)),
        count => format!("{} GB", three_digits(count / 1e9)),
    }
}

/// A share from 0 to 1 in percent, such as `0.31 %`, `12.5 %` or `100 %`.
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "-".to_owned();
    }
    if share == 0.0 {
        return "0 %".to_owned();
    }
    // What is not all of it is not called that.
    let share = if share < 1.0 { share.min(0.9999) } else { share };
    let percent = share * 100.0;
    if (99.9..100.0).contains(&percent) {
        return format!("{percent:.2} %");
    }
    format!("{} %", three_digits(percent))
}

/// A factor, such as `1.96`.
pub fn factor(value: f64) -> String {
    three_digits(value)
}

/// Seconds in the unit that suits them: `3.21 µs`, `45.0 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`.
pub fn seconds(value: f64) -> String {
    match value {
        v if v < 0.0 || !v.is_finite() => "-".to_owned(),
        v if v < 0.000_999_5 => format!("{} µs", three_digits(v * 1e6)),
        v if v < 0.999_5 => format!("{} ms", three_digits(v * 1e3)),
        v if v < 59.95 => format!("{} s", three_digits(v)),
        v if v < 3599.5 => {
            let whole = v.round() as u64;
            format!("{} min {:02} s", whole / 60, whole % 60)
        }
        v => {
            let minutes = (v / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

/// A duration, as [`seconds`].
pub fn duration(value: Duration) -> String {
    seconds(value.as_secs_f64())
}

/// Seconds in few letters, for columns: `0.3s`, `12s`, `4m05s`, `2h03m`, `5d02h`.
pub fn short_seconds(value: f64) -> String {
    match value {
        v if !v.is_finite() || v < 0.0 => "-".to_owned(),
        v if v < 9.95 => format!("{v:.1}s"),
        v if v < 59.5 => format!("{v:.0}s"),
        v => {
            let whole = v.round() as u64;
            match whole {
                0..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
                3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
                _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
            }
        }
    }
}

/// Bytes in few letters, for columns: `512B`, `9.4M`, `1.2G`.
pub fn short_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G", "T"] {
        if value < 999.5 || unit == "T" {
            return match value {
                v if unit == "B" || v >= 9.95 => format!("{v:.0}{unit}"),
                v => format!("{v:.1}{unit}"),
            };
        }
        value /= 1024.0;
    }
    String::new()
}

/// A count with a thousands separator: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 item`, `2 items`.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = match noun {
        "process" => "processes".to_owned(),
        "retry" => "retries".to_owned(),
        _ => format!("{noun}s"),
    };
    format!("{} {}", grouped(count), if count == 1 { noun } else { &plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_wear_the_unit_that_suits_them() {
        let cases = [
            (0.0, "0.00 µs"),
            (0.000_003_21, "3.21 µs"),
            (0.045, "45.0 ms"),
            (0.9999, "1.00 s"),
            (12.34, "12.3 s"),
            (59.97, "1 min 00 s"),
            (245.4, "4 min 05 s"),
            (7380.0, "2 h 03 min"),
            (f64::NAN, "-"),
        ];
        for (value, text) in cases {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn shares_and_bytes_keep_three_digits_and_all_but_one_is_not_all() {
        assert_eq!(
            [0.0, 0.00312, 0.125, 0.999999, 1.0].map(percent),
            ["0 %", "0.31 %", "12.5 %", "99.99 %", "100 %"]
        );
        assert_eq!(
            [12.0, 1250.0, 12.5e6, 3e9].map(bytes),
            ["12 B", "1.25 kB", "12.5 MB", "3.00 GB"]
        );
        assert_eq!([81.34, 1234.5].map(per_second), ["81.3/s", "1,235/s"]);
    }

    #[test]
    fn columns_are_short() {
        for (value, text) in [
            (0.04, "0.0s"),
            (3.26, "3.3s"),
            (42.0, "42s"),
            (59.6, "1m00s"),
            (3725.0, "1h02m"),
            (90_000.0, "1d01h"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(short_seconds(value), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0K"),
            (10 << 20, "10M"),
            (1500 << 20, "1.5G"),
        ] {
            assert_eq!(short_bytes(bytes), text);
        }
    }

    #[test]
    fn rates_and_counts_are_grouped() {
        assert_eq!(rate(81.34), "81.3 items/s");
        assert_eq!(rate(1234.5), "1,235 items/s");
        assert_eq!(rate(f64::INFINITY), "- items/s");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
        assert_eq!(counted(1, "process"), "1 process");
        assert_eq!(counted(2, "process"), "2 processes");
    }
}
