//! What may be sent to a peer, by its budgets and by what the device runs from.
//!
//! Bytes are those on the wire, both ways, as the meters of the connections count them: they are looked at whenever an offload
//! wants to begin, and one begins only where what it is expected to take is left, beside what those under way are.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use outpost_cascade::{Budget, OffloadEnergy};
use outpost_transport::{Protocol, WireMeter};

use super::{config::BudgetConfig, lock};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a request's bytes, the share that the headers of its packets and what acknowledges them take at the most: 2 of 72 bytes
/// for 1448 and one of these for two, with TCP over IPv6.
const PACKETS_SHARE: f64 = 1.0 / 12.0;
/// What a call takes beside its request and the values of its answer, at the most: headers of HTTP and gRPC, and packets that
/// acknowledge.
const CALL_BYTES: f64 = 1024.0;
/// What a connection takes to be made, at the most: both flights of TLS with the certificates of two authorities, over HTTP/2
/// and HTTP/3 side by side.
const CONNECTION_BYTES: f64 = 12_000.0;

/// How a device spares what it runs from, beside its budgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thrift {
    /// Offloads an hour; no bound by default.
    pub offloads_per_hour: Option<NonZeroU32>,
    /// Joules an hour that offloads may take; no bound by default. Needs `energy`.
    pub joules_per_hour: Option<NonZeroU32>,
    /// What an offload takes, where that is known.
    pub energy: Option<OffloadEnergy>,
    /// How many times as long the pauses are between questions to endpoints that are not in use. Default 1.
    pub slowdown: NonZeroU32,
}

impl Default for Thrift {
    fn default() -> Self {
        Self {
            offloads_per_hour: None,
            joules_per_hour: None,
            energy: None,
            slowdown: NonZeroU32::MIN,
        }
    }
}

/// The energy that offloads took, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyUse {
    /// Joules since the start.
    pub spent: f64,
    /// Joules that are left of the hour's; none without a bound.
    pub left: Option<f64>,
}

/// A budget that is in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetLeft {
    /// Its name: `offloads_per_hour`, `bytes_per_day`, or one of what the device runs from, as `power: joules_per_hour`.
    pub name: &'static str,
    /// What may be used in any such time.
    pub most: f64,
    /// What is left of it.
    pub left: f64,
}

/// What is left of a peer's budgets.
pub(super) struct Budgets {
    offloads: Bound,
    bytes: Bound,
    /// What counts the bytes, by the endpoint's URL.
    meters: BTreeMap<Arc<str>, Metered>,
    /// Bytes that offloads under way may take.
    under_way: f64,
    account: ThriftAccount,
}

struct Metered {
    /// Gives the bytes until now.
    read: Box<dyn Fn() -> u64 + Send>,
    /// How much of it the budget knows.
    counted: u64,
}

/// What an offload takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Demand {
    /// Of the request.
    request_bytes: u64,
    /// On the wire, both ways, as far as can be told before.
    wire_bytes: f64,
}

/// What offloads to all sites take together of what a device runs from. Clones share it.
#[derive(Clone)]
pub struct ThriftAccount {
    /// Of its times.
    origin: Instant,
    account: Arc<Mutex<Account>>,
}

struct Account {
    offloads: Bound,
    joules: Bound,
    energy: Option<OffloadEnergy>,
    /// When the last offload was, while its energy is known.
    last: Option<Duration>,
    spent: f64,
    slowdown: NonZeroU32,
}

/// One of them.
struct Bound {
    name: &'static str,
    period: Duration,
    /// Kept while it does not bound: one that is put in force again goes on.
    budget: Option<Budget>,
    is_in_force: bool,
}

/// Which budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("the budget `{0}` is used up; what was used is free again once its time has passed")]
pub(super) struct UsedUp(&'static str);

impl Bound {
    fn new(name: &'static str, period: Duration) -> Self {
        Self {
            name,
            period,
            budget: None,
            is_in_force: false,
        }
    }

    /// Goes by another bound from now on; what was used counts against it. The first one begins whole.
    fn set(&mut self, most: Option<NonZeroU32>) {
        self.is_in_force = most.is_some();
        match (&mut self.budget, most) {
            (Some(budget), Some(most)) => budget.resize(most.get()),
            (None, Some(most)) => self.budget = Some(Budget::new(most.get(), self.period)),
            (_, None) => {}
        }
    }

    fn in_force(&mut self) -> Option<&mut Budget> {
        self.budget.as_mut().filter(|_| self.is_in_force)
    }

    fn check(&mut self, amount: f64, now: Duration) -> Result<(), UsedUp> {
        let mut budget = self.in_force();
        match budget.as_mut().is_none_or(|budget| budget.has(amount, now)) {
            true => Ok(()),
            false => Err(UsedUp(self.name)),
        }
    }

    fn left(&mut self, now: Duration) -> Option<BudgetLeft> {
        let name = self.name;
        let budget = self.in_force()?;
        Some(BudgetLeft {
            name,
            most: budget.most(),
            left: budget.left(now),
        })
    }
}

impl Metered {
    /// What is new since the last look.
    fn since(&mut self) -> u64 {
        let now = (self.read)();
        let since = now.saturating_sub(self.counted);
        self.counted = now;
        since
    }
}

impl Demand {
    /// Of a request of so many bytes, which is answered with that many values.
    pub(super) fn of(request_bytes: u64, values: usize) -> Self {
        let request = request_bytes as f64;
        let answer = 4.0 * values as f64;
        Self {
            request_bytes,
            wire_bytes: (1.0 + PACKETS_SHARE) * (request + answer) + CALL_BYTES,
        }
    }

    /// The least, before the request is known, and whether a connection is there.
    pub(super) fn least(is_connected: bool) -> Self {
        let connection = if is_connected { 0.0 } else { CONNECTION_BYTES };
        Self {
            request_bytes: 0,
            wire_bytes: CALL_BYTES + connection,
        }
    }
}

impl Budgets {
    /// Whole ones.
    pub(super) fn new(config: &BudgetConfig) -> Self {
        let mut budgets = Self {
            offloads: Bound::new("offloads_per_hour", HOUR),
            bytes: Bound::new("bytes_per_day", DAY),
            meters: BTreeMap::new(),
            under_way: 0.0,
            account: ThriftAccount::default(),
        };
        budgets.resize(config);
        budgets
    }

    /// Goes by other bounds from now on; what was used counts against them.
    pub(super) fn resize(&mut self, config: &BudgetConfig) {
        let was_counted = self.bytes.is_in_force;
        self.offloads.set(config.offloads_per_hour);
        self.bytes.set(config.bytes_per_day);
        if !was_counted && self.bytes.is_in_force {
            for meter in self.meters.values_mut() {
                meter.since();
            }
        }
    }

    /// Counts what the connections to an endpoint cost, from now on; one that is known goes on.
    pub(super) fn count(&mut self, endpoint: Arc<str>, wire: WireMeter) {
        self.count_by(endpoint, move || {
            let [h2, h3] = [Protocol::H2, Protocol::H3].map(|protocol| wire.bytes(protocol));
            let both = h2 + h3;
            both.sent + both.received
        });
    }

    fn count_by(&mut self, endpoint: Arc<str>, read: impl Fn() -> u64 + Send + 'static) {
        self.meters.entry(endpoint).or_insert_with(|| Metered {
            counted: read(),
            read: Box::new(read),
        });
    }

    /// Counts offloads on that account, too, in place of the one before.
    pub(super) fn spare(&mut self, account: &ThriftAccount) {
        self.account = account.clone();
    }

    /// Whether an offload of that demand may begin at `now`.
    ///
    /// # Errors
    /// [`UsedUp`], which names the budget.
    pub(super) fn check(&mut self, demand: Demand, now: Duration) -> Result<(), UsedUp> {
        self.settle(now);
        let bytes = demand.wire_bytes + self.under_way;
        for (bound, amount) in [(&mut self.offloads, 1.0), (&mut self.bytes, bytes)] {
            bound.check(amount, now)?;
        }
        let account = self.account.clone();
        account.lock().check(demand.request_bytes, account.now())
    }

    /// Begins an offload of that demand at `now`, whose end is to be told; takes nothing where more is demanded than is left.
    ///
    /// # Errors
    /// [`UsedUp`], which names the budget.
    pub(super) fn begin(&mut self, demand: Demand, now: Duration) -> Result<(), UsedUp> {
        self.check(demand, now)?;
        let account = self.account.clone();
        account.lock().take(demand.request_bytes, account.now())?;
        if let Some(budget) = self.offloads.in_force() {
            budget.take(1.0);
        }
        self.under_way += demand.wire_bytes;
        Ok(())
    }

    /// An offload that began is over.
    pub(super) fn end(&mut self, demand: Demand, now: Duration) {
        self.settle(now);
        self.under_way = (self.under_way - demand.wire_bytes).max(0.0);
    }

    /// Takes what went over the wire since the last look.
    fn settle(&mut self, now: Duration) {
        let Some(budget) = self.bytes.in_force() else {
            return;
        };
        let since: u64 = self.meters.values_mut().map(Metered::since).sum();
        if since > 0 {
            // It is used at that time.
            budget.left(now);
            budget.take(since as f64);
        }
    }

    /// Those in force, as of `now`.
    pub(super) fn left(&mut self, now: Duration) -> Vec<BudgetLeft> {
        self.settle(now);
        let own = [&mut self.offloads, &mut self.bytes];
        let mut left: Vec<BudgetLeft> = own.into_iter().filter_map(|one| one.left(now)).collect();
        let mut account = self.account.lock();
        let (
            Account {
                offloads, joules, ..
            },
            now,
        ) = (&mut *account, self.account.now());
        left.extend(
            [offloads, joules]
                .into_iter()
                .filter_map(|one| one.left(now)),
        );
        left
    }

    /// The energy that offloads took until now; none where it is not known what one takes.
    pub(super) fn energy(&self) -> Option<EnergyUse> {
        self.account.energy()
    }
}

impl Default for ThriftAccount {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            account: Arc::new(Mutex::new(Account::new())),
        }
    }
}

impl ThriftAccount {
    /// Spares what the device runs from in another way from now on; what was used counts.
    pub fn go_by(&self, thrift: &Thrift) {
        self.lock().go_by(thrift);
    }

    /// The energy that offloads took until now; none where it is not known what one takes.
    pub fn energy(&self) -> Option<EnergyUse> {
        self.lock().energy(self.now())
    }

    /// How many times as long pauses between questions are.
    pub(super) fn slowdown(&self) -> u32 {
        self.lock().slowdown.get()
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }
}

impl Account {
    fn new() -> Self {
        Self {
            offloads: Bound::new("power: offloads_per_hour", HOUR),
            joules: Bound::new("power: joules_per_hour", HOUR),
            energy: None,
            last: None,
            spent: 0.0,
            slowdown: NonZeroU32::MIN,
        }
    }

    fn go_by(&mut self, thrift: &Thrift) {
        self.offloads.set(thrift.offloads_per_hour);
        self.joules.set(thrift.joules_per_hour);
        self.energy = thrift.energy;
        self.slowdown = thrift.slowdown;
    }

    fn check(&mut self, bytes: u64, now: Duration) -> Result<(), UsedUp> {
        let joules = self.joules_of(bytes, now);
        self.offloads.check(1.0, now)?;
        self.joules.check(joules, now)
    }

    /// Takes an offload of so many bytes at `now`; takes nothing where it is more than what is left.
    fn take(&mut self, bytes: u64, now: Duration) -> Result<(), UsedUp> {
        self.check(bytes, now)?;
        let joules = self.joules_of(bytes, now);
        for (bound, amount) in [(&mut self.offloads, 1.0), (&mut self.joules, joules)] {
            if let Some(budget) = bound.in_force() {
                budget.take(amount);
            }
        }
        self.spent += joules;
        self.last = Some(now);
        Ok(())
    }

    fn joules_of(&self, bytes: u64, now: Duration) -> f64 {
        let since = self.last.map(|last| now.saturating_sub(last));
        let energy = self.energy.as_ref();
        energy.map_or(0.0, |energy| energy.joules(bytes, since))
    }

    fn energy(&mut self, now: Duration) -> Option<EnergyUse> {
        self.energy?;
        Some(EnergyUse {
            spent: self.spent,
            left: self.joules.in_force().map(|budget| budget.left(now)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const START: Duration = Duration::ZERO;

    fn budgets(offloads: u32, bytes: u32) -> (Budgets, Arc<AtomicU64>) {
        let mut budgets = Budgets::new(&BudgetConfig {
            offloads_per_hour: NonZeroU32::new(offloads),
            bytes_per_day: NonZeroU32::new(bytes),
        });
        let wire = Arc::new(AtomicU64::new(0));
        let read = wire.clone();
        budgets.count_by("a".into(), move || read.load(Ordering::Relaxed));
        (budgets, wire)
    }

    /// An offload that takes so many bytes, as was expected.
    fn offload(
        (budgets, wire): &mut (Budgets, Arc<AtomicU64>),
        bytes: u32,
        now: Duration,
    ) -> Result<(), UsedUp> {
        let demand = Demand {
            request_bytes: bytes.into(),
            wire_bytes: bytes.into(),
        };
        budgets.begin(demand, now)?;
        wire.fetch_add(bytes.into(), Ordering::Relaxed);
        budgets.end(demand, now);
        Ok(())
    }

    #[test]
    fn one_that_is_used_up_leaves_the_other_as_it_was() {
        let now = START;
        let mut unbounded = budgets(0, 0);
        assert!((0..1000).all(|_| offload(&mut unbounded, u32::MAX, now).is_ok()));
        let mut both = budgets(2, 1000);
        assert!(offload(&mut both, 600, now).is_ok());
        let error = offload(&mut both, 600, now).unwrap_err().to_string();
        assert!(error.contains("bytes_per_day"), "{error}");
        assert!(offload(&mut both, 300, now).is_ok());
        for _ in 0..10 {
            let error = offload(&mut both, 50, now).unwrap_err().to_string();
            assert!(error.contains("offloads_per_hour"), "{error}");
        }
        let later = now + 2 * HOUR;
        let left = both.0.left(later);
        assert_eq!(left.len(), 2);
        assert_eq!((left[0].name, left[0].left), ("offloads_per_hour", 2.0));
        assert_eq!((left[1].most, left[1].left), (1000.0, 100.0));
        // After an hour both offloads are free again, and the bytes only after a day.
        assert!(offload(&mut both, 90, later).is_ok());
        let error = offload(&mut both, 20, later).unwrap_err().to_string();
        assert!(error.contains("bytes_per_day"), "{error}");
        assert!(offload(&mut both, 20, now + DAY + HOUR).is_ok());
    }

    #[test]
    fn bytes_are_those_on_the_wire_and_none_begins_that_does_not_fit_beside_those_under_way() {
        let (mut budgets, wire) = budgets(0, 100_000);
        let left = |budgets: &mut Budgets| budgets.left(START)[0].left;
        let demand = Demand::of(38_000, 1000);
        assert!(demand.wire_bytes > 44_000.0 && demand.wire_bytes < 50_000.0);
        // A handshake, and what asks whether a connection lives.
        wire.fetch_add(5_000, Ordering::Relaxed);
        assert_eq!(left(&mut budgets), 95_000.0);
        assert!(budgets.begin(demand, START).is_ok());
        assert!(budgets.begin(demand, START).is_ok());
        assert!(budgets.check(demand, START).is_err());
        // Both cost less than they might have.
        wire.fetch_add(80_000, Ordering::Relaxed);
        budgets.end(demand, START);
        budgets.end(demand, START);
        assert_eq!(left(&mut budgets), 15_000.0);
        assert!(budgets.check(demand, START).is_err());
        assert!(budgets.check(Demand::least(true), START).is_ok());
        assert!(budgets.check(Demand::of(10_000, 1000), START).is_err());
        assert!(budgets.begin(Demand::of(8_000, 1000), START).is_ok());
    }

    #[test]
    fn what_goes_over_the_wire_while_bytes_are_not_bounded_is_not_counted_later() {
        let (mut budgets, wire) = budgets(0, 0);
        wire.fetch_add(5_000, Ordering::Relaxed);
        let bounded = BudgetConfig {
            offloads_per_hour: None,
            bytes_per_day: NonZeroU32::new(10_000),
        };
        budgets.resize(&bounded);
        wire.fetch_add(1_000, Ordering::Relaxed);
        // The connections of who comes after it are counted on.
        budgets.count_by("a".into(), || 0);
        budgets.resize(&bounded);
        assert_eq!(budgets.left(START)[0].left, 9_000.0);
    }

    fn thrift(joules_per_hour: u32) -> Thrift {
        Thrift {
            joules_per_hour: NonZeroU32::new(joules_per_hour),
            energy: Some(OffloadEnergy {
                joules_per_byte: 1e-3,
                radio_watts: 1.0,
                radio_tail: Duration::from_secs(10),
            }),
            ..Thrift::default()
        }
    }

    #[test]
    fn offloads_end_with_the_energy_that_they_may_take_and_come_back_with_time() {
        let mut account = Account::new();
        account.go_by(&thrift(100));
        // 20 joules each: 10 a tail, 10 by its bytes.
        let at = |offload: u64| Duration::from_secs(10 * offload);
        let taken = (0..10).take_while(|&offload| account.take(10_000, at(offload)).is_ok());
        assert_eq!(taken.count(), 5);
        let error = account.take(10_000, at(7)).unwrap_err().to_string();
        assert!(error.contains("power: joules_per_hour"), "{error}");
        let used = account.energy(at(7)).unwrap();
        assert_eq!(used.spent, 100.0);
        assert!(used.left.unwrap() < 20.0);
        // Within one tail they cost their bytes alone.
        let later = at(0) + 2 * HOUR;
        assert_eq!(
            (0..20)
                .filter(|_| account.take(5_000, later).is_ok())
                .count(),
            18
        );
    }

    #[test]
    fn what_was_used_counts_once_it_is_spared_again() {
        let mut account = Account::new();
        account.go_by(&thrift(100));
        assert!(account.take(80_000, START).is_ok());
        account.go_by(&Thrift::default());
        assert!(account.take(1 << 30, START).is_ok());
        assert_eq!(account.energy(START), None);
        account.go_by(&thrift(100));
        assert!(account.take(11_000, START).is_err());
        assert!(account.take(9_000, START).is_ok());
    }

    #[test]
    fn a_class_may_bound_offloads_below_the_budget_for_all_sites_together() {
        let account = ThriftAccount::default();
        account.go_by(&Thrift {
            offloads_per_hour: NonZeroU32::new(3),
            ..Thrift::default()
        });
        let mut sites = [budgets(100, 0), budgets(100, 0)];
        for (budgets, _) in &mut sites {
            budgets.spare(&account);
        }
        let [fog, cloud] = &mut sites;
        assert!(offload(fog, 1, START).is_ok());
        let taken = (0..5).filter(|_| offload(cloud, 1, START).is_ok());
        assert_eq!(taken.count(), 2);
        let error = offload(fog, 1, START).unwrap_err().to_string();
        assert!(error.contains("power: offloads_per_hour"), "{error}");
        assert_eq!(fog.0.left(START)[1], cloud.0.left(START)[1]);
        account.go_by(&Thrift::default());
        let taken = (0..200).filter(|_| offload(cloud, 1, START).is_ok());
        assert_eq!(taken.count(), 98);
    }
}
