//! What the peer is told of the routes.

use vipdp_core::prefix::Prefix;

use crate::bgp::config::Announcement;
use crate::bgp::encode::{self, Family, Path, Way};
use crate::bgp::prefixes;

use super::connection::{Connection, Established};
use super::event::{ConnId, Event, Output};
use super::{SECOND_NS, Session};

/// The shortest time between two answers to ROUTE-REFRESH: a peer that asks and asks costs no more
/// than this.
const REFRESH_NS: u64 = SECOND_NS;

impl Session {
    /// Tells the peer what it is to be told and was not.
    pub(super) fn tell(&mut self, out: &mut Vec<Output>) {
        let Some(announcement) = self.announcement else { return };
        let Some((conn, established)) = self.up() else { return };
        if established.told != announcement {
            established.told = announcement;
            // What was asked for is among what is sent now.
            established.asked.clear();
            let ways: Vec<_> = established.terms.announced().collect();
            for way in ways {
                self.send_routes(conn, way, announcement, out);
            }
            let [v4, v6] = self.routes_told();
            out.push(Output::Log(Event::Announced { announcement, v4, v6 }));
        }
        self.send_end_of_rib(out);
    }

    /// Notes what a ROUTE-REFRESH asks for (RFC 2918 section 3): not what RFC 7313 gave other
    /// subtypes, which was not negotiated, nor families that are not spoken.
    pub(super) fn asked_again(&mut self, index: usize, body: &[u8]) {
        let family = match body {
            [0, 1, 0, 1] => Family::V4,
            [0, 2, 0, 1] => Family::V6,
            _ => return,
        };
        let Some(established) = self.connections[index].established_mut() else { return };
        if established.terms.families.contains(&family) && !established.asked.contains(&family) {
            established.asked.push(family);
        }
    }

    /// Sends what is due of the routes.
    pub(super) fn answer(&mut self, out: &mut Vec<Output>) {
        let now = self.now;
        let Some((conn, established)) = self.up() else { return };
        if !established.asked.is_empty() && established.answer_at <= now {
            established.answer_at = now + REFRESH_NS;
            let asked = std::mem::take(&mut established.asked);
            let told = established.told;
            let ways: Vec<_> = established.terms.announced().collect();
            if told != Announcement::Nothing {
                for way in ways.into_iter().filter(|way| asked.contains(&way.family())) {
                    self.send_routes(conn, way, told, out);
                }
            }
        }
        let owed = self.up().and_then(|(_, established)| established.end_of_rib_at);
        if owed.is_some_and(|at| at <= now) {
            self.send_end_of_rib(out);
        }
    }

    /// How many of the IPv4 and of the IPv6 routes the peer has.
    pub(super) fn routes_told(&self) -> [usize; 2] {
        let established = self.connections.iter().find_map(Connection::established);
        established.map_or([0; 2], |established| established.routes(&self.local.prefixes))
    }

    /// The connection by which the session is up.
    fn up(&mut self) -> Option<(ConnId, &mut Established)> {
        self.connections.iter_mut().find_map(|connection| {
            let conn = connection.id;
            connection.established_mut().map(|established| (conn, established))
        })
    }

    fn send_routes(
        &mut self,
        conn: ConnId,
        way: Way,
        announcement: Announcement,
        out: &mut Vec<Output>,
    ) {
        let terms = self.find(conn).and_then(|index| self.connections[index].terms());
        let path = Path {
            asn: self.local.asn,
            four_octet_as: terms.is_some_and(|terms| terms.four_octet_as),
            attributes: &self.local.attributes,
            marked: announcement == Announcement::Marked,
        };
        let updates = match announcement {
            Announcement::Nothing => encode::withdraw(way, &self.local.prefixes),
            Announcement::Marked | Announcement::Announced => {
                encode::announce(&path, way, &self.local.prefixes)
            }
        };
        for update in updates {
            self.send_update(conn, update, out);
        }
    }

    fn send_end_of_rib(&mut self, out: &mut Vec<Output>) {
        let Some((conn, established)) = self.up() else { return };
        if established.end_of_rib_at.take().is_some() {
            for family in established.terms.families.clone() {
                self.send_update(conn, encode::end_of_rib(family), out);
            }
        }
    }

    fn send_update(&mut self, conn: ConnId, update: Vec<u8>, out: &mut Vec<Output>) {
        self.counters.updates_out += 1;
        self.send(conn, update, out);
    }
}

impl Established {
    /// How many of the IPv4 and of the IPv6 prefixes the peer has.
    fn routes(&self, all: &[Prefix]) -> [usize; 2] {
        let count = |family| {
            let announced = self.terms.announced().any(|way| way.family() == family);
            let told = self.told != Announcement::Nothing && announced;
            if told { prefixes::of(all, family).count() } else { 0 }
        };
        [count(Family::V4), count(Family::V6)]
    }
}
