//! Events as a sensor sends them: 200 bytes of JSON, the same names and other numbers each time.

/// Bytes of an event's body.
pub const SIZE: usize = 200;

/// The body of a device's event number `n`, exactly [`SIZE`] bytes. `at` is a time in microseconds.
pub fn body(device: usize, n: u64, at: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n ^ (device as u64) << 40);
    let mut text = format!(
        "{{\"device\":\"barn-{device:03}\",\"n\":{n},\"at\":{at},\"temp\":{:.2},\"hum\":{:.1},\"pressure\":{:.1},\
         \"volt\":{:.3},\"rssi\":-{},\"lux\":{},\"door\":\"{}\",\"firmware\":\"1.4.2\"",
        random.f64() * 50.0 - 10.0,
        random.f64() * 100.0,
        random.f64() * 50.0 + 980.0,
        random.f64() + 3.0,
        random.u32(40..99),
        random.u32(0..9999),
        random.choice(["open", "closed"]).unwrap(),
    );
    text.push_str(&" ".repeat(SIZE - 1 - text.len()));
    text.push('}');
    text.into_bytes()
}
