//! Who a process runs as: the image's `User` looked up in the container's own `/etc/passwd` and
//! `/etc/group` (passwd(5), group(5)), with ACI's `runAsUser` and `runAsGroup` above it.
//!
//! The rules are Docker's: a number needs no entry, a name does; without a group the entry's is
//! taken, or 0; supplementary groups come from `/etc/group` unless the image names a group.

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some(Entry {
            name,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1).unwrap_or(""),
        })
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// Decides who a process runs as. The error is a sentence for the container's author.
pub(crate) fn resolve(
    image: Option<&str>,
    uid: Option<u32>,
    gid: Option<u32>,
    passwd: &str,
    group: &str,
) -> Result<User, String> {
    let (who, which) = match image.unwrap_or("").trim().split_once(':') {
        Some((who, which)) => (who, Some(which).filter(|text| !text.is_empty())),
        None => (image.unwrap_or("").trim(), None),
    };
    // ACI's runAsUser replaces the image's user; a group that the image names stays.
    let who = if uid.is_some() { "" } else { who };
    let number = uid.or_else(|| who.parse().ok());
    let entry = entries(passwd).find(|entry| match number {
        Some(number) => entry.uid == number,
        None => entry.name == if who.is_empty() { "root" } else { who },
    });
    let mut user = match (&entry, number) {
        (Some(entry), _) => User {
            uid: entry.uid,
            gid: entry.gid,
            home: Some(entry.home.to_owned()).filter(|home| !home.is_empty()),
            ..User::default()
        },
        (None, Some(uid)) => User {
            uid,
            ..User::default()
        },
        (None, None) if who.is_empty() => User::default(),
        (None, None) => {
            return Err(format!(
                "the image's user '{who}' is not in its /etc/passwd; name one that is, or use a number"
            ));
        }
    };
    if let Some(entry) = &entry
        && which.is_none()
    {
        user.groups = groups(group)
            .filter(|(_, _, members)| members.split(',').any(|member| member == entry.name))
            .map(|(_, gid, _)| gid)
            .collect();
    }
    if let Some(which) = which {
        user.gid = match which.parse() {
            Ok(number) => number,
            Err(_) => groups(group)
                .find(|(name, _, _)| *name == which)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| {
                    format!(
                        "the image's group '{which}' is not in its /etc/group; name one that is, or use a number"
                    )
                })?,
        };
    }
    if let Some(gid) = gid {
        user.gid = gid;
    }
    user.groups.retain(|other| *other != user.gid);
    user.groups.insert(0, user.gid);
    user.groups.dedup();
    // NGROUPS_MAX of Linux.
    user.groups.truncate(65_536);
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:Web:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nadm:x:4:web,root\nlog:x:9:nobody,web\nbad\n";

    fn who(image: Option<&str>, uid: Option<u32>, gid: Option<u32>) -> Result<User, String> {
        resolve(image, uid, gid, PASSWD, GROUP)
    }

    #[test]
    fn the_rules_are_dockers() {
        let root = who(None, None, None).unwrap();
        assert_eq!(
            (root.uid, root.gid, root.groups.as_slice()),
            (0, 0, &[0, 4][..])
        );
        assert_eq!(root.home.as_deref(), Some("/root"));
        let web = who(Some("web"), None, None).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups.as_slice()),
            (101, 102, &[102, 4, 9][..])
        );
        assert_eq!(who(Some("101"), None, None).unwrap(), web);
        let odd = who(Some("4242"), None, None).unwrap();
        assert_eq!(
            (odd.uid, odd.gid, odd.groups.as_slice()),
            (4242, 0, &[0][..])
        );
        let group = who(Some("web:adm"), None, None).unwrap();
        assert_eq!(
            (group.uid, group.gid, group.groups.as_slice()),
            (101, 4, &[4][..])
        );
        assert_eq!(who(Some("7:8"), None, None).unwrap().gid, 8);
    }

    #[test]
    fn acis_values_stand_above_the_images() {
        let user = who(Some("web:adm"), Some(55), None).unwrap();
        assert_eq!((user.uid, user.gid), (55, 4));
        let user = who(Some("web"), Some(55), None).unwrap();
        assert_eq!((user.uid, user.gid), (55, 0));
        let user = who(Some("web"), None, Some(77)).unwrap();
        assert_eq!((user.uid, user.gid), (101, 77));
        assert_eq!(user.groups[0], 77);
    }

    #[test]
    fn unknown_names_are_named() {
        assert!(
            who(Some("ghost"), None, None)
                .unwrap_err()
                .contains("'ghost'")
        );
        assert!(
            who(Some("web:ghost"), None, None)
                .unwrap_err()
                .contains("/etc/group")
        );
        assert_eq!(resolve(None, None, None, "", "").unwrap().uid, 0);
    }
}
