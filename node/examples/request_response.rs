//! Request-response: alpha offers a service, beta calls it by its name.
#![expect(clippy::print_stdout, reason = "an example says what happens")]

use weft_node::Node;
use weft_node::patterns::request_response::{CallOptions, RequestResponse, ServiceOptions};

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (alpha, beta) = support::two_nodes(dir.path(), || Node::builder().pattern(RequestResponse)).await?;

    let services = alpha
        .handle::<RequestResponse>()
        .ok_or("alpha has no request-response")?;
    let mut greet = services.serve(ServiceOptions::new("greet", "1.0.0")).await?;
    alpha.tasks().spawn("greet", async move {
        // The service lasts as long as `greet` does.
        while let Some(call) = greet.next().await {
            let answer = [b"hello ", call.body.as_slice()].concat();
            call.answer(Vec::new(), answer);
        }
    });

    let calls = beta.handle::<RequestResponse>().ok_or("beta has no request-response")?;
    let answer = calls
        .call("greet", "", b"world".to_vec(), CallOptions::default())
        .await?;
    println!("{} answered {:?}", answer.node, String::from_utf8(answer.body)?);

    let nobody = calls.call("nobody", "", Vec::new(), CallOptions::default()).await;
    println!("without a service: {}", nobody.err().ok_or("somebody answered")?);

    beta.stop().await;
    alpha.stop().await;
    Ok(())
}
