//! The shop's world: cities, products, names, reasons.
//!
//! Invariant: no text but [`UNSEEN_TYPES`] needs an escape in JSON or quotes in CSV; adding or moving an entry changes what a seed makes.

/// Something that is sold.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) id: u32,
    pub(super) name: &'static str,
    pub(super) category: &'static str,
    /// The least it costs; up to a tenth more is asked.
    pub(super) cents: u32,
}

/// Where customers live.
#[derive(Clone, Copy)]
pub(super) struct City {
    pub(super) name: &'static str,
    pub(super) country: &'static str,
}

const fn product(id: u32, name: &'static str, category: &'static str, cents: u32) -> Product {
    Product { id, name, category, cents }
}

const fn city(name: &'static str, country: &'static str) -> City {
    City { name, country }
}

pub(super) static PRODUCTS: [Product; 20] = [
    product(201, "Fountain pen", "Stationery", 1_050),
    product(202, "Pencil", "Stationery", 49),
    product(203, "Some mobile", "Electronics", 499_900),
    product(204, "Some laptop", "Electronics", 5_999_900),
    product(205, "Some book", "Books", 25_900),
    product(206, "Notebook with 200 pages", "Stationery", 399),
    product(207, "Cotton shirt", "Clothing", 89_900),
    product(208, "Running shoes", "Footwear", 349_900),
    product(209, "Coffee maker", "Kitchen", 129_950),
    product(210, "Bluetooth speaker", "Electronics", 219_900),
    product(211, "Atlas of the world", "Books", 64_900),
    product(212, "Frying pan", "Kitchen", 74_900),
    product(213, "Yoga mat", "Sports", 59_900),
    product(214, "Adjustable desk lamp", "Furniture", 149_900),
    product(215, "Office chair", "Furniture", 899_900),
    product(216, "Tennis racket", "Sports", 279_900),
    product(217, "Rain jacket", "Clothing", 199_900),
    product(218, "Cookbook for beginners", "Books", 34_900),
    product(219, "Noise cancelling headphones", "Electronics", 159_900),
    product(220, "Green tea in 100 bags", "Grocery", 7_490),
];

pub(super) static CITIES: [City; 24] = [
    city("Mumbai", "India"),
    city("Boston", "USA"),
    city("Oxford", "UK"),
    city("Indore", "India"),
    city("Bengaluru", "India"),
    city("Delhi", "India"),
    city("Chennai", "India"),
    city("Kolkata", "India"),
    city("New York City", "USA"),
    city("Chicago", "USA"),
    city("Seattle", "USA"),
    city("Austin", "USA"),
    city("London", "UK"),
    city("Manchester", "UK"),
    city("Edinburgh", "UK"),
    city("Berlin", "Germany"),
    city("Zürich", "Switzerland"),
    city("Paris", "France"),
    city("Madrid", "Spain"),
    city("São Paulo", "Brazil"),
    city("Sydney", "Australia"),
    city("Toronto", "Canada"),
    city("Singapore", "Singapore"),
    city("Tokyo", "Japan"),
];

pub(super) static SITES: [&str; 8] = [
    "www.amazon.com",
    "www.flipkart.com",
    "www.tatacliq.com",
    "www.amazon.in",
    "www.ebay.in",
    "www.snapdeal.com",
    "www.departmentstore.co.uk",
    "www.marketplace.example.com",
];

pub(super) static FAILURE_REASONS: [&str; 6] =
    ["Invalid CVV.", "Insufficient funds", "Card expired", "Bank timed out", "Limit exceeded", "Declined by issuer"];

/// Payment types outside the six: plain ones, one that shares its slug with a known one, ones without a slug or with a taken slug,
/// ones that need escapes.
pub(super) static UNSEEN_TYPES: [&str; 12] = [
    "Apple Pay",
    "Gift Card",
    "Cash on Delivery",
    "Bank Transfer (SEPA)",
    "google  pay",
    "Crypto / BTC",
    "Successful",
    "FAILED",
    "",
    "現金",
    "Pay \"Later\", in 3",
    "back\\slash",
];

static FIRST: [&str; 16] =
    ["John", "Mary", "Joe", "Neo", "Trinity", "Asha", "Ravi", "Priya", "Chen", "Yuki", "Fatima", "Omar", "Anna", "Lukas", "Zoë", "José"];
static LAST: [&str; 16] = [
    "Smith", "Jane", "Anderson", "Patel", "Sharma", "Iyer", "Wei", "Tanaka", "Haddad", "Khan", "Müller", "Rossi", "Dubois", "Silva",
    "Brown", "Jones",
];

/// First and last name of a customer.
pub(super) fn name(customer: u32) -> (&'static str, &'static str) {
    (FIRST[customer as usize % FIRST.len()], LAST[customer as usize / FIRST.len() % LAST.len()])
}
