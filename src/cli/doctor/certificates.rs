//! Certificates: whether their files fit together, and until when they are good.

use super::{Finding, span, touches::Touches};
use crate::{
    clock,
    systems::tls::{certificates, client_config, server_config},
};
use std::path::Path;

const DAY_MS: i64 = 86_400_000;
/// Who renews by hand needs some time.
const SOON: i64 = 30 * DAY_MS;

pub(super) fn look(touches: &Touches) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut file = |place: &str, what: &str, path: &Path| {
        for cert in certificates(path).unwrap_or_default() {
            let shown = path.display();
            findings.push(good(&format!("{place}.tls.{what}"), &format!("`{shown}`"), &cert));
        }
    };
    for (place, tls) in &touches.servers {
        file(place, "cert", &tls.cert);
        tls.client_ca.iter().for_each(|ca| file(place, "client_ca", ca));
    }
    let clients = || touches.upstreams.iter().filter_map(|(place, upstream)| Some((place, upstream.tls.as_ref()?)));
    for (place, tls) in clients() {
        tls.cert.iter().for_each(|cert| file(place, "cert", cert));
        tls.ca.iter().for_each(|ca| file(place, "ca", ca));
    }
    let unfit = |place: &String, problem: Option<anyhow::Error>| {
        problem
            .map(|problem| Finding::wrong(format!("{place}.tls"), format!("{problem:#}"), "mend or replace the file"))
    };
    findings.extend(touches.servers.iter().filter_map(|(place, tls)| unfit(place, server_config(tls).err())));
    findings.extend(clients().filter_map(|(place, tls)| unfit(place, client_config(tls).err())));
    findings
}

/// Whether a certificate is good now, and for how long.
pub(super) fn good(check: &str, what: &str, cert: &[u8]) -> Finding {
    let Some((from, to)) = validity(cert) else {
        return Finding::doubtful(check, format!("{what}: its dates cannot be read"), "look at it with openssl");
    };
    let (now, day) = (clock::wall_ms(), |at: i64| clock::rfc3339(at)[..10].to_owned());
    let away = |ms: i64| span(ms as f64 / 1000.0);
    if now < from {
        let says = format!("{what}: is not good before {}, and this machine's clock says {}", day(from), day(now));
        Finding::wrong(check, says, "set the clock, or wait")
    } else if now > to {
        let says = format!("{what}: expired {} ago, on {}", away(now - to), day(to));
        Finding::wrong(check, says, "renew it")
    } else if to - now < SOON {
        let says = format!("{what}: expires in {}, on {}", away(to - now), day(to));
        Finding::doubtful(check, says, "renew it; a renewed file is taken without a restart")
    } else {
        Finding::right(check, format!("{what}: expires in {}, on {}", away(to - now), day(to)))
    }
}

/// From when to when a certificate is good, in milliseconds since 1970: X.509's `Validity` (RFC 5280, 4.1), read out of DER.
fn validity(cert: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    let (_, cert, _) = element(cert).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(cert).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if rest.first() == Some(&0xa0) {
        (_, _, rest) = element(rest)?; // the version
    }
    for _ in ["serial number", "signature", "issuer"] {
        (_, _, rest) = element(rest)?;
    }
    let (_, dates, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (tag, from, rest) = element(dates)?;
    let (last, to, _) = element(rest)?;
    Some((time(tag, from)?, time(last, to)?))
}

/// An element of DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (long.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `UTCTime`, whose years are those of 1950 to 2049, or `GeneralizedTime`.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let text = match (tag, text.get(..2)?) {
        (0x17, year) if year >= "50" => format!("19{text}"),
        (0x17, _) => format!("20{text}"),
        (0x18, _) => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (date, clock) = (format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?), part(8, 14)?);
    clock::parse_time(&format!("{date}T{}:{}:{}Z", &clock[..2], &clock[2..4], &clock[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn the_dates_of_a_certificate_are_read() {
        let now = clock::wall_ms();
        let year = |days: i64| clock::rfc3339(now + days * DAY_MS)[..4].parse::<i32>().unwrap();
        for (from, to, want) in [
            ((1980, 2, 3), (2049, 12, 31), Verdict::Right),
            ((1975, 1, 1), (2061, 7, 4), Verdict::Right),
            ((1975, 1, 1), (2004, 7, 4), Verdict::Wrong),
            ((year(800), 1, 1), (year(1600), 1, 1), Verdict::Wrong),
        ] {
            let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let text = |(y, m, d): (i32, u8, u8)| format!("{y}-{m:02}-{d:02}T00:00:00.000Z");
            let (begins, ends) = validity(cert.der()).unwrap();
            assert_eq!((clock::rfc3339(begins), clock::rfc3339(ends)), (text(from), text(to)));
            assert_eq!(good("x", "y", cert.der()).verdict, want);
            // Whatever it is cut to or changed to, it is read or not, and nothing else.
            for at in 0..cert.der().len() {
                validity(&cert.der()[..at]);
                let mut torn = cert.der().to_vec();
                torn[at] ^= 0xff;
                validity(&torn);
            }
        }
        for (tag, text, want) in [
            (0x17, "260101120000Z", Some("2026-01-01T12:00:00.000Z")),
            (0x17, "991231235959Z", Some("1999-12-31T23:59:59.000Z")),
            (0x18, "20500101000000Z", Some("2050-01-01T00:00:00.000Z")),
            (0x18, "2050", None),
            (0x17, "2é0101120000Z", None),
            (0x02, "260101120000Z", None),
        ] {
            assert_eq!(time(tag, text.as_bytes()).map(clock::rfc3339).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn who_has_some_days_left_is_told() {
        let at = |ms: i64| {
            let text = clock::rfc3339(clock::wall_ms() + ms);
            let digits: String = text[..19].chars().filter(char::is_ascii_digit).collect();
            [&[0x18, 15], format!("{digits}Z").as_bytes()].concat()
        };
        let wrap = |tag: u8, content: Vec<u8>| [vec![tag, u8::try_from(content.len()).unwrap()], content].concat();
        let cert = |from: i64, to: i64| {
            let dates = wrap(0x30, [at(from), at(to)].concat());
            let before = [wrap(0xa0, vec![2, 1, 2]), wrap(2, vec![1]), wrap(0x30, vec![]), wrap(0x30, vec![])].concat();
            wrap(0x30, wrap(0x30, [before, dates].concat()))
        };
        for (from, to, verdict, says) in [
            (-DAY_MS, 12 * DAY_MS + 60_000, Verdict::Doubtful, "expires in 12 days"),
            (-DAY_MS, 400 * DAY_MS + 60_000, Verdict::Right, "expires in 400 days"),
            (-9 * DAY_MS, -3 * DAY_MS, Verdict::Wrong, "expired 3 days ago"),
            (DAY_MS, 9 * DAY_MS, Verdict::Wrong, "is not good before"),
        ] {
            let found = good("tls", "`x`", &cert(from, to));
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.says.contains(says), "{found:?}");
        }
        assert_eq!(good("tls", "`x`", b"0\x82").verdict, Verdict::Doubtful);
    }
}
