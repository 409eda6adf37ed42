use super::*;

fn scenario(faults: &str) -> Scenario {
    let text = format!(
        "name = \"x\"\nabout = \"x\"\nduration = \"60s\"\nquiet = \"20s\"\n[fleet]\nnodes = 10\n[topology]\nkind = \"ring\"\n{faults}"
    );
    crate::scenario::parse("x.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn a_plan_follows_from_the_seed_and_ends_before_the_quiet_phase() {
    let churn =
        scenario("[[fault]]\nkind = \"churn\"\nrate = \"1/s\"\nstart = \"10s\"\nuntil = \"40s\"\ndown = \"5s\"\n");
    let (first, again, other) = (plan(&churn, 1), plan(&churn, 1), plan(&churn, 2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first.spans.len() > 10, "{}", first.spans.len());
    assert!(first.ends_ns() <= 40_000_000_000 + 1_000_000, "{}", first.ends_ns());
}

#[test]
fn who_is_down_is_not_hit_again_and_everybody_comes_back() {
    let churn =
        scenario("[[fault]]\nkind = \"churn\"\nrate = \"2/s\"\nstart = \"5s\"\nuntil = \"38s\"\ndown = \"10s\"\n");
    let mut down = std::collections::BTreeSet::new();
    for (_, step) in plan(&churn, 3).steps {
        match step {
            Step::PowerCut(host) => assert!(down.insert(host), "{host} was down already"),
            Step::Start(host) => assert!(down.remove(&host), "{host} was up already"),
            other => panic!("{other:?}"),
        }
    }
    assert!(down.is_empty());
}

#[test]
fn islands_are_of_about_the_same_size_and_join_again() {
    let islands = scenario("[[fault]]\nkind = \"islands\"\nislands = 3\nat = \"10s\"\nfor = \"10s\"\n");
    let plan = plan(&islands, 1);
    let [
        (10_000_000_000, Step::Islands(number, parts)),
        (20_000_000_000, Step::Join(end)),
    ] = &plan.steps[..]
    else {
        panic!("{:?}", plan.steps);
    };
    assert_eq!(number, end);
    let mut sizes = [0; 3];
    parts.iter().for_each(|part| sizes[usize::from(*part)] += 1);
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 3, 4]);
}
