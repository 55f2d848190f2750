//! Routes of the node: whether the pods' subnet is free, and where the default route leaves.

use std::net::Ipv4Addr;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::{
    Subnet, link,
    netlink::{Doing, NetlinkError},
};

/// How many routes are read. A router with the whole internet's table has about a million.
const ROUTE_LIMIT: usize = 2_000_000;

/// A route to some network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    destination: Subnet,
    link: Option<u32>,
}

impl Route {
    /// Unicast routes alone: the kernel's own routes to single local addresses say nothing new.
    fn read(message: RouteMessage) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let mut address = Ipv4Addr::UNSPECIFIED;
        let mut link = None;
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(found)) => address = found,
                RouteAttribute::Oif(index) => link = Some(index),
                _ => {}
            }
        }
        let destination = Subnet::containing(address, message.header.destination_prefix_length);
        Some(Self { destination, link })
    }
}

/// A route of others that shares addresses with a subnet, as text; routes by our own bridge do not count.
pub(crate) async fn overlapping(
    handle: &Handle,
    subnet: Subnet,
    bridge: Option<u32>,
) -> Result<Option<String>, NetlinkError> {
    let clash = list(handle).await?.into_iter().find(|route| {
        let is_ours = route.link.is_some() && route.link == bridge;
        route.destination.prefix() > 0 && !is_ours && route.destination.overlaps(subnet)
    });
    let Some(route) = clash else { return Ok(None) };
    let name = match route.link {
        Some(index) => {
            link::list(handle).await?.into_iter().find(|link| link.index == index).map(|link| link.name)
        }
        None => None,
    };
    Ok(Some(match name {
        Some(name) => format!("{} dev {name}", route.destination),
        None => route.destination.to_string(),
    }))
}

/// Index of the link that the default route leaves by.
pub(crate) async fn default_link(handle: &Handle) -> Result<Option<u32>, NetlinkError> {
    Ok(list(handle)
        .await?
        .into_iter()
        .filter(|route| route.destination.prefix() == 0)
        .find_map(|route| route.link))
}

async fn list(handle: &Handle) -> Result<Vec<Route>, NetlinkError> {
    let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes = handle.route().get(any).execute().take(ROUTE_LIMIT);
    let routes: Vec<RouteMessage> = routes.try_collect().await.doing(|| "list the routes".to_owned())?;
    Ok(routes.into_iter().filter_map(Route::read).collect())
}
