//! The orders of a demo: made from a seed, or read from a file.

use std::{collections::HashSet, path::Path};

use onewrite::{Code, Error, Result, sqlite};
use onewrite_shop::Order;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Orders made from `seed`. Some fail for business reasons: a poor customer, an article that runs out,
/// a place the carrier does not go to.
pub(crate) fn made(count: usize, seed: u64) -> Vec<Order> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|number| {
            let customer = random.random_range(0..200);
            let kind = random.random_range(0..100);
            let quantity = random.random_range(1..4);
            Order {
                id: format!("order-{seed}-{number}"),
                customer: if kind < 5 {
                    format!("poor-{}", customer % 10)
                } else {
                    format!("customer-{customer}")
                },
                sku: if (5..9).contains(&kind) {
                    format!("rare-{}", customer % 3)
                } else {
                    format!("article-{}", customer % 17)
                },
                quantity,
                cents: quantity * random.random_range(500..20_000),
                country: if (9..13).contains(&kind) {
                    onewrite_shop::model::UNREACHABLE.into()
                } else {
                    "Korea".into()
                },
            }
        })
        .collect()
}

/// Orders from a file of JSON lines.
pub(crate) fn read(path: &Path) -> Result<Vec<Order>> {
    let invalid = |what: String| Error::new(Code::InvalidInput, what);
    let text = std::fs::read_to_string(path).map_err(|error| {
        invalid(format!("read the orders in {}", path.display())).with_source(error)
    })?;
    let mut seen = HashSet::new();
    let mut orders = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{} line {}", path.display(), index + 1);
        let order: Order = serde_json::from_str(line)
            .map_err(|error| invalid(format!("{place} is not an order")).with_source(error))?;
        if order.id.is_empty() || order.customer.is_empty() || order.quantity < 1 || order.cents < 0
        {
            return Err(invalid(format!(
                "{place}: an order needs an id, a customer, a quantity of at least 1 and a price that is not negative"
            )));
        }
        let bytes_max = sqlite::Options::new("").event_bytes_max;
        order.event("OrderCreated").and_then(|event| event.check(bytes_max)).map_err(|error| {
            Error::new(error.code(), format!("{place} cannot be emitted")).with_source(error)
        })?;
        if !seen.insert(order.id.clone()) {
            return Err(invalid(format!(
                "{place}: the order id `{}` is there twice",
                order.id.escape_debug()
            )));
        }
        orders.push(order);
    }
    if orders.is_empty() {
        return Err(invalid(format!("{} holds no order", path.display())));
    }
    Ok(orders)
}
