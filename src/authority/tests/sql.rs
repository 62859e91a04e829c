use super::*;

fn on(table: &str) -> Authority {
    authority(&[(&["select"], &[table])])
}

#[test]
fn a_privilege_on_a_table_is_covered_by_itself_and_by_a_star() {
    let asked = authority(&[(&["select", "insert"], &["public.orders"])]);
    for (privileges, table, covered) in [
        (&["select", "insert"][..], "public.orders", true),
        (&["*"][..], "public.orders", true),
        (&["*"][..], "*", true),
        (&["*"][..], "*.*", true),
        (&["*"][..], "public.*", true),
        (&["select"][..], "public.orders", false),
        (&["*"][..], "billing.*", false),
        (&["*"][..], "public.Orders", false),
    ] {
        let ceiling = authority(&[(privileges, &[table])]);
        assert_eq!(
            Vocabulary::Sql.covers(&ceiling, &asked).unwrap(),
            covered,
            "{privileges:?} on {table}"
        );
    }
}

#[test]
fn every_privilege_is_more_than_all_that_are_known() {
    let all = [
        "select",
        "insert",
        "update",
        "delete",
        "truncate",
        "references",
    ];
    let ceiling = authority(&[(&all, &["public.orders"])]);
    let asked = authority(&[(&["*"], &["public.orders"])]);
    assert!(!Vocabulary::Sql.covers(&ceiling, &asked).unwrap());
    assert!(Vocabulary::Sql.covers(&asked, &ceiling).unwrap());
}

#[test]
fn what_sql_would_quote_or_fold_is_refused() {
    for privilege in ["SELECT", "sel*", "", "all", "usage", "trigger", "select "] {
        assert!(
            undecidable(Vocabulary::Sql, privilege, &["public.orders"]),
            "{privilege:?}"
        );
    }
    for table in [
        "",
        "orders",
        ".orders",
        "public.",
        "a.b.c",
        "public.or ders",
        "public.\"o\"",
        "public.é",
        "public.o;",
        "public.o\n",
        "public.o\0",
    ] {
        assert!(
            undecidable(Vocabulary::Sql, "select", &[table]),
            "{table:?}"
        );
    }
    assert!(undecidable(Vocabulary::Sql, "select", &[]), "no table");
}

#[test]
fn containment_of_tables_is_what_enumeration_says() {
    let parts: Vec<String> = words(&['a', '*'], 2)
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let names: Vec<String> = words(&['a', 'b'], 3)
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let patterns: Vec<(&String, &String)> = parts
        .iter()
        .flat_map(|schema| parts.iter().map(move |name| (schema, name)))
        .collect();
    let meant = |pattern: &(&String, &String)| -> Vec<bool> {
        let of = |part: &str, name: &str| matches(part.as_bytes(), name.as_bytes());
        names
            .iter()
            .flat_map(|schema| {
                names
                    .iter()
                    .map(move |name| of(pattern.0, schema) && of(pattern.1, name))
            })
            .collect()
    };
    for ceiling in &patterns {
        for asked in &patterns {
            let (wide, narrow) = (meant(ceiling), meant(asked));
            let contained = narrow.iter().zip(&wide).all(|(n, w)| !n || *w);
            let meets = narrow.iter().zip(&wide).any(|(n, w)| *n && *w);
            let (ceiling, asked) = (
                format!("{}.{}", ceiling.0, ceiling.1),
                format!("{}.{}", asked.0, asked.1),
            );
            let covers = Vocabulary::Sql.covers(&on(&ceiling), &on(&asked)).unwrap();
            assert_eq!(covers, contained, "{asked} in {ceiling}");
            let overlap = Vocabulary::Sql.overlap(&on(&ceiling), &on(&asked)).unwrap();
            assert_eq!(overlap, meets, "{asked} meets {ceiling}");
        }
    }
}
