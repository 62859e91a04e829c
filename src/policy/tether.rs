//! What a lease hangs on: contexts, built from verified facts only.

use super::schema;
use crate::fences::Dimension;
use crate::identity::Facts;
use crate::ids::IssuerId;

/// What tells a context of a group from another one, the best first.
const NAMES: [&str; 3] = ["run_id", "id", "uid"];

/// The facts that [`contexts`] looks at.
pub fn tethers_by(tether: &str) -> Vec<String> {
    let group = tether.rsplit_once('.').map_or(tether, |(group, _)| group);
    let names = NAMES.iter().chain(&["run_attempt", "repository_id"]);
    let names = names.map(|name| format!("{group}.{name}"));
    names.chain([tether.to_owned()]).collect()
}

/// The contexts that a tether means, as (kind, id), or the fact that is missing.
///
/// - `pipeline` (no dot) is identified by the fact `pipeline.run_id`, else `pipeline.id`, else
///   `pipeline.uid`; with `pipeline.repository_id`, by `REPOSITORY:ID`. With `pipeline.run_attempt`
///   there is also the narrower context `ID/ATTEMPT`: the end of an attempt ends what that attempt
///   was given, the end of the run ends all.
/// - `pipeline.job_id` (a fact's name) is identified by that fact, and is a kind of its own. Of a job, too, with
///   `pipeline.repository_id`, by `REPOSITORY:ID`.
pub fn contexts(tether: &str, facts: &Facts) -> Result<Vec<(String, String)>, String> {
    let proved = |fact: &str| {
        facts
            .get(fact)
            .filter(|value| !value.is_null())
            .map(schema::text)
    };
    // SECURITY: `1/2` must mean the second attempt of run 1 and nothing else.
    let usable = |id: &String| !id.is_empty() && !id.contains('/');
    let kind = tether.to_owned();
    // SECURITY: a run's id, and a job's, carries its repository's, so that whoever may speak for one
    // repository cannot end the runs of another.
    // One that cannot be told apart is refused: left out, the run would be anybody's.
    let owned = |group: &str, id: String| {
        let repository = format!("{group}.repository_id");
        match proved(&repository) {
            Some(owner) if usable(&owner) && !owner.contains(':') => Ok(format!("{owner}:{id}")),
            Some(_) => Err(repository),
            None => Ok(id),
        }
    };
    if tether.contains('.') {
        let id = proved(tether).filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| tether.to_owned())?;
        let id = match tether.strip_suffix(".job_id") {
            Some(group) => owned(group, id)?,
            None => id,
        };
        return Ok(vec![(kind, id)]);
    }
    let id = NAMES
        .iter()
        .find_map(|name| proved(&format!("{tether}.{name}")))
        .filter(usable)
        .ok_or_else(|| format!("{tether}.run_id"))?;
    let id = owned(tether, id)?;
    let mut contexts = vec![(kind.clone(), id.clone())];
    if let Some(attempt) = proved(&format!("{tether}.run_attempt")) {
        contexts.push((kind, format!("{id}/{attempt}")));
    }
    Ok(contexts)
}

/// A context under both names of its issuer, so that whoever ends it may use either. A name cannot
/// hold a `:`, a URL must: they never meet.
pub(super) fn dimensions(
    (kind, id): (&str, &str),
    issuer: &IssuerId,
    issuer_url: &str,
) -> [Dimension; 2] {
    [issuer_url, issuer.as_str()].map(|issuer| Dimension::context(issuer, kind, id))
}
