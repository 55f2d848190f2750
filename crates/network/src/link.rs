//! Links of the node: what they are called, whose they are, and removing ours.

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::Handle;

use crate::{
    Owner,
    netlink::{Doing, NetlinkError},
    owner::LINK_NAME_ATTEMPTS,
};

/// How many links are read. More than a node can hold pods of one /16; a bound for the memory.
const LINK_LIMIT: usize = 100_000;

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) kind: Option<InfoKind>,
    /// Index of the bridge that it has joined.
    pub(crate) bridge: Option<u32>,
    pub(crate) is_up: bool,
    pub(crate) mtu: u32,
}

impl Link {
    /// The owner by the link's mark.
    pub(crate) fn owner(&self) -> Option<Owner> {
        Owner::from_mark(self.alias.as_deref()?)
    }

    /// Whether the link was made for this owner: by its mark or, if the riklet died before it could mark it, because
    /// it is unmarked, has the owner's name and has joined our bridge.
    pub(crate) fn is_of(&self, owner: &Owner, bridge: Option<u32>) -> bool {
        match &self.alias {
            Some(_) => self.owner().as_ref() == Some(owner),
            None => {
                let is_named_so =
                    (0..LINK_NAME_ATTEMPTS).any(|attempt| owner.link_name(attempt) == self.name);
                is_named_so && self.joined(bridge)
            }
        }
    }

    /// Whether the link has joined this bridge.
    pub(crate) fn joined(&self, bridge: Option<u32>) -> bool {
        self.bridge.is_some() && self.bridge == bridge
    }

    fn read(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            kind: None,
            bridge: None,
            is_up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|alias| !alias.is_empty()),
                LinkAttribute::Controller(index) => link.bridge = Some(index),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::LinkInfo(facts) => {
                    link.kind = facts.into_iter().find_map(|fact| match fact {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// All links of the namespace.
pub(crate) async fn list(handle: &Handle) -> Result<Vec<Link>, NetlinkError> {
    let links = handle.link().get().execute().take(LINK_LIMIT).map_ok(Link::read);
    links.try_collect().await.doing(|| "list the links".to_owned())
}

/// The link of a name, if there is one.
pub(crate) async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut answer = std::pin::pin!(handle.link().get().match_name(name).execute());
    match answer.try_next().await.doing(|| format!("look at link {name}")) {
        Ok(found) => Ok(found.map(Link::read)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a link; its peer goes with it. One that is gone already is no error.
pub(crate) async fn remove(handle: &Handle, link: &Link) -> Result<(), NetlinkError> {
    match handle.link().del(link.index).execute().await.doing(|| format!("remove link {}", link.name)) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// The links made for an owner: one, or none. Looks at the names that it may have and nothing else.
pub(crate) async fn of_owner(
    handle: &Handle,
    owner: &Owner,
    bridge: Option<u32>,
) -> Result<Vec<Link>, NetlinkError> {
    let mut links = Vec::new();
    for attempt in 0..LINK_NAME_ATTEMPTS {
        // A stranger may have had an earlier name when the link was made, so each is looked at.
        let found = find(handle, &owner.link_name(attempt)).await?;
        links.extend(found.filter(|link| link.is_of(owner, bridge)));
    }
    Ok(links)
}
