//! Inline mode on real packets: the kernel carries, userspace judges.

mod scene;

use lab::{Family, Place, Probe, Transport, probe_all};
use scene::*;

/// Who may reach y/a on 80 and who on any other, over both families and TCP and UDP, before and after.
fn matrix(scene: &Scene) -> Vec<(String, bool)> {
    let mut asked = Vec::new();
    for from in ["x/a", "x/b", "y/b", "z/b"].map(pod) {
        for to in ["y/a", "y/c"].map(pod) {
            for (port, transport) in [(80, Transport::Tcp), (81, Transport::Tcp), (80, Transport::Udp)] {
                for family in Family::ALL {
                    let probe = Probe { from: from.clone(), to: scene.address(&to, family), port, transport };
                    asked.push((
                        format!("{from} -> {to} {port}/{transport:?} {family:?}"),
                        to.clone(),
                        probe,
                    ));
                }
            }
        }
    }
    let probes: Vec<Probe> = asked.iter().map(|(.., probe)| probe.clone()).collect();
    let outcomes = probe_all(&scene.lab, &probes, TIMEOUT).expect("probes");
    asked.iter().zip(outcomes).map(|((name, to, _), outcome)| (name.clone(), outcome.reached(to))).collect()
}

#[test]
fn pods_reach_whom_policy_lets_them() {
    let scene = Scene::new("mode: inline\n");
    let _servers = scene.servers();
    assert!(matrix(&scene).iter().all(|(_, reached)| *reached), "without an agent the kernel forwards all");
    let agent = scene.agent();
    for (name, reached) in matrix(&scene) {
        let allowed = !name.contains("-> y/a") || name.starts_with("x/") && name.contains(" 80/");
        assert_eq!(reached, allowed, "{name}\n{}", agent.log());
    }
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    assert!(scene.reaches(&pod("x/a"), &outside, 80, Transport::Tcp));
    assert!(!scene.reaches(&outside, &pod("y/a"), 80, Transport::Tcp));
    assert!(scene.reaches(&outside, &pod("y/c"), 80, Transport::Tcp));
}
