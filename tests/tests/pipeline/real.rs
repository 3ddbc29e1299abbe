use laneguard_tests::kubernetes::{Real, Where};

use crate::{environment, hostile, replicas};

/// The scenarios that need no faults in the API server, against one that is none of ours.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_against_a_real_api_server() {
    let Some(real) = Real::find().await.unwrap() else {
        println!("skipped: neither KUBEBUILDER_ASSETS nor KUBECONFIG leads to a real API server");
        return;
    };
    let place = Where::Real(real);
    environment::the_loop(place.clone()).await.unwrap();
    println!("the loop: done");
    hostile::guard_rails(place.clone()).await.unwrap();
    println!("guard rails: done");
    hostile::expiry(place.clone()).await.unwrap();
    println!("expiry: done");
    replicas::survive(place).await.unwrap();
    println!("replicas: done");
}
