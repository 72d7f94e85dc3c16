//! Downloads from a hub that breaks, stalls, changes its mind and lies.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use darkbloom_provider::models::{
    ChooseError, DownloadError, Downloaded, Event, Hub, HubOptions, Order, RepositoryName, Revision, Waits, Wanted,
    download,
};
use darkbloom_provider::weights_of_file;
use darkbloom_types::{Digest, SecretString};
use serde_json::json;
use tempfile::TempDir;

use crate::hub::{COMMIT, Fault, TestHub, sibling};
use crate::{everything_below, shipped};

/// Where the model lies in the repository and below the models folder.
const FILE: &str = "q8/tiny.gguf";
const PLACE: &str = "lab/model/q8/tiny.gguf";
/// Waits that tests can wait for.
const WAITS: Waits = Waits {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(20),
    total: Duration::from_secs(60),
    backoff: Duration::ZERO,
    attempts: 4,
};

/// A hub with the model that ships, and an empty models folder.
struct Scene {
    hub: TestHub,
    models: TempDir,
    waits: Waits,
    token: Option<&'static str>,
    weights: Option<Digest>,
    events: Vec<Event>,
}

impl Scene {
    fn new() -> Self {
        // A second call says that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let hub = TestHub::start();
        hub.put(FILE, shipped());
        let models = tempfile::tempdir().unwrap();
        Self { hub, models, waits: WAITS, token: None, weights: None, events: Vec::new() }
    }

    fn misbehaving(faults: impl IntoIterator<Item = Fault>) -> Self {
        let scene = Self::new();
        scene.hub.misbehave(faults);
        scene
    }

    async fn get(&mut self, wanted: Wanted<'_>) -> Result<Downloaded, DownloadError> {
        let token = self.token.map(SecretString::from);
        let hub = Hub::new(HubOptions { endpoint: self.hub.endpoint.clone(), token, waits: self.waits })?;
        let repository: RepositoryName = "lab/model".parse().unwrap();
        let listing = hub.listing(&repository, &"main".parse::<Revision>().unwrap()).await?;
        let file = listing.choose(wanted)?;
        let models = self.models.path().to_owned();
        let order = Order { repository, commit: listing.commit, file, weights: self.weights, models };
        self.events.clear();
        download(&hub, &order, |event| self.events.push(event)).await
    }

    async fn download(&mut self) -> Result<Downloaded, DownloadError> {
        self.get(Wanted::Only).await
    }

    fn files(&self) -> Vec<String> {
        everything_below(self.models.path())
    }

    /// That the whole model is there, and nothing else.
    fn assert_whole(&self) {
        assert_eq!(self.files(), [PLACE]);
        assert!(fs::read(self.models.path().join(PLACE)).unwrap() == shipped());
    }

    /// The parts that were asked for, in turn.
    fn ranges(&self) -> Vec<Option<String>> {
        self.hub.asked_for_files().iter().map(|seen| seen.header("range").map(str::to_owned)).collect()
    }

    fn restarted(&self) -> bool {
        self.events.contains(&Event::Restarted)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_got_verified_and_has_its_name_only_then() {
    let mut scene = Scene::new();
    let done = scene.download().await.unwrap();
    scene.assert_whole();
    assert_eq!(done.path, scene.models.path().join(PLACE));
    assert!(!done.already && done.weights == weights_of_file(&done.path).unwrap());
    let asked = &scene.hub.asked_for_files()[0];
    assert_eq!(asked.target, format!("/lab/model/resolve/{COMMIT}/q8/tiny.gguf"), "by the commit of the list");
    assert_eq!((asked.header("range"), asked.header("accept-encoding")), (None, Some("identity")));
    let progress: Vec<_> = scene
        .events
        .iter()
        .filter_map(|event| if let Event::Progress(progress) = event { Some(*progress) } else { None })
        .collect();
    assert!(progress.windows(2).all(|pair| pair[0].done <= pair[1].done));
    let last = progress.last().unwrap();
    assert_eq!((last.done, last.total), (shipped().len() as u64, shipped().len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_there_is_not_got_again() {
    let mut scene = Scene::new();
    scene.download().await.unwrap();
    let again = scene.download().await.unwrap();
    assert!(again.already);
    assert_eq!((scene.hub.asked_for_files().len(), again.path), (1, scene.models.path().join(PLACE)));
    scene.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_goes_on_where_it_ended() {
    let mut scene = Scene::misbehaving([Fault::CutAfter(1_500_000), Fault::CutAfter(700_000), Fault::CutAfter(0)]);
    scene.download().await.unwrap();
    scene.assert_whole();
    let part = |from| Some(format!("bytes={from}-"));
    assert_eq!(scene.ranges(), [None, part(1_500_000), part(2_200_000), part(2_200_000)]);
    let tag = format!("\"{}\"", Digest::of(&[&shipped()]));
    assert!(scene.hub.asked_for_files()[1..].iter().all(|seen| seen.header("if-range") == Some(&tag)));
    assert!(!scene.restarted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_given_up_goes_on_another_time() {
    let mut scene =
        Scene::misbehaving([Fault::CutAfter(1_500_000)].into_iter().chain((0..3).map(|_| Fault::CutAfter(0))));
    let given_up = scene.download().await.unwrap_err();
    assert!(matches!(given_up, DownloadError::Unreachable { attempts: 4, .. }), "{given_up}");
    assert_eq!(scene.files(), [format!("{PLACE}.partial"), format!("{PLACE}.partial.json")]);
    scene.download().await.unwrap();
    assert_eq!(scene.events[0], Event::Resumed { bytes: 1_500_000 });
    assert_eq!(scene.ranges().last().unwrap().as_deref(), Some("bytes=1500000-"));
    scene.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_sends_whole_files_only_is_taken_as_it_is() {
    let mut scene = Scene::misbehaving([Fault::CutAfter(1_500_000), Fault::IgnoreRange]);
    scene.download().await.unwrap();
    assert!(scene.restarted());
    scene.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_editions_are_never_put_together() {
    for fault in [Fault::OtherTag, Fault::OtherPart, Fault::Status(416, None)] {
        let mut scene = Scene::misbehaving([Fault::CutAfter(1_500_000), fault]);
        scene.download().await.unwrap();
        assert!(scene.restarted());
        assert_eq!(scene.ranges(), [None, Some("bytes=1500000-".to_owned()), None]);
        scene.assert_whole();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edition_that_came_between_is_found_out() {
    let mut scene = Scene::misbehaving((0..4).map(|at| Fault::CutAfter(if at == 0 { 1_500_000 } else { 0 })));
    scene.download().await.unwrap_err();
    // Another file of the same size, and a list that says so.
    let mut other = shipped();
    *other.last_mut().unwrap() ^= 1;
    scene.hub.put(FILE, other.clone());
    scene.download().await.unwrap();
    assert!(!scene.events.contains(&Event::Resumed { bytes: 1_500_000 }), "of another digest: begun anew");
    assert!(fs::read(scene.models.path().join(PLACE)).unwrap() == other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_lies_about_the_size_is_found_out_before_the_bytes_come() {
    let mut scene = Scene::misbehaving([Fault::Announce(99)]);
    let lied = scene.download().await.unwrap_err();
    assert!(matches!(lied, DownloadError::Size { found: 99, .. }), "{lied}");
    let mut scene = Scene::misbehaving([Fault::CutAfter(1_500_000)]);
    let mut listed = sibling(FILE, &shipped());
    listed["size"] = json!(3_000_000);
    scene.hub.list(json!([listed]));
    assert!(matches!(scene.download().await, Err(DownloadError::Size { expected: 3_000_000, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_bytes_than_the_file_has_are_not_taken() {
    let mut scene = Scene::misbehaving([Fault::TooMuch(5 << 20)]);
    let refused = scene.download().await.unwrap_err();
    let DownloadError::Size { expected, found } = refused else { panic!("{refused}") };
    // At most what had arrived with the first byte too many.
    assert!(expected == shipped().len() as u64 && found > expected && found < expected + (2 << 20), "{found}");
    assert!(!scene.models.path().join(PLACE).exists());
    let kept = fs::metadata(scene.models.path().join(format!("{PLACE}.partial"))).unwrap().len();
    assert_eq!(kept, 0, "what came is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_removed() {
    let mut scene = Scene::new();
    scene.hub.list(json!([sibling(FILE, &shipped())]));
    let mut wrong = shipped();
    wrong[1_000_000] ^= 1;
    scene.hub.put(FILE, wrong.clone());
    let refused = scene.download().await.unwrap_err();
    let DownloadError::Digest { expected, found } = refused else { panic!("{refused}") };
    assert_eq!((expected, found), (Digest::of(&[&shipped()]), Digest::of(&[&wrong])));
    assert!(scene.files().is_empty(), "{:?}", scene.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_changed_on_the_disk_meanwhile_are_found_out() {
    let mut scene = Scene::misbehaving((0..4).map(|at| Fault::CutAfter(if at == 0 { 1_500_000 } else { 0 })));
    scene.download().await.unwrap_err();
    let partial = scene.models.path().join(format!("{PLACE}.partial"));
    let mut bytes = fs::read(&partial).unwrap();
    bytes[700_000] ^= 1;
    fs::write(&partial, bytes).unwrap();
    assert!(matches!(scene.download().await, Err(DownloadError::Digest { .. })));
    assert!(scene.files().is_empty(), "the next time begins anew");
    scene.download().await.unwrap();
    scene.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_final_and_what_passes_is_tried_again() {
    for status in [401, 403] {
        let mut scene = Scene::misbehaving([Fault::Status(status, None)]);
        let refused = scene.download().await.unwrap_err();
        assert!(matches!(&refused, DownloadError::Refused { status: said, .. } if *said == status), "{refused}");
        assert!(refused.hint().contains("HF_TOKEN") && scene.hub.asked_for_files().len() == 1);
    }
    let mut scene = Scene::misbehaving([Fault::Status(404, None)]);
    assert!(matches!(scene.download().await, Err(DownloadError::NotFound(_))));
    let mut scene = Scene::misbehaving([Fault::Status(418, None)]);
    assert!(matches!(scene.download().await, Err(DownloadError::Answer(_))));
    let mut scene =
        Scene::misbehaving([Fault::Status(429, Some(0)), Fault::Status(500, None), Fault::Status(503, None)]);
    scene.hub.misbehave_listing([Fault::Status(502, None), Fault::CutAfter(10)]);
    scene.download().await.unwrap();
    scene.assert_whole();
    let waits: Vec<_> = scene
        .events
        .iter()
        .filter_map(|event| if let Event::Waiting { why, .. } = event { Some(why.as_str()) } else { None })
        .collect();
    assert_eq!(waits, ["HTTP 429", "HTTP 500", "HTTP 503"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_is_given_up_after_a_few_attempts() {
    let mut scene = Scene::new();
    scene.hub.misbehave_listing((0..9).map(|_| Fault::Status(500, None)));
    assert!(matches!(scene.download().await, Err(DownloadError::Unreachable { attempts: 4, .. })));
    assert_eq!(scene.hub.asked().len(), 4);
    assert!(scene.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_on_which_nothing_comes_is_dropped_and_dialled_again() {
    let mut scene = Scene::misbehaving([Fault::StallAfter(1_500_000), Fault::StallAfter(0)]);
    scene.waits.idle = Duration::from_millis(200);
    scene.download().await.unwrap();
    scene.assert_whole();
    assert_eq!(scene.ranges()[1].as_deref(), Some("bytes=1500000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_takes_too_long_altogether_has_an_end() {
    let mut scene = Scene::misbehaving([Fault::StallAfter(10)]);
    scene.waits.total = Duration::from_millis(300);
    assert!(matches!(scene.download().await, Err(DownloadError::TooSlow(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_bring_a_few_bytes_each_have_an_end() {
    let mut scene = Scene::misbehaving((0..50).map(|_| Fault::CutAfter(10)));
    assert!(matches!(scene.download().await, Err(DownloadError::Unreachable { attempts: 4, .. })));
    assert_eq!(scene.hub.asked_for_files().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_out_of_the_folder_create_nothing() {
    for hostile in [
        "../../evil.gguf",
        "/tmp/evil.gguf",
        "a/../../../evil.gguf",
        "..\\evil.gguf",
        "nul.gguf",
        "a\u{1b}[2J.gguf",
        "C:evil.gguf",
    ] {
        let mut scene = Scene::new();
        scene.hub.list(json!([sibling(hostile, &shipped())]));
        let refused = scene.download().await.unwrap_err();
        assert!(matches!(refused, DownloadError::Choose(ChooseError::Name { .. })), "{refused}");
        assert!(scene.files().is_empty() && scene.hub.asked_for_files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_somebody_planted_lead_nowhere() {
    for (link, target) in [
        ("lab", ""),
        ("lab/model", ""),
        ("lab/model/q8", ""),
        (PLACE, "victim"),
        ("lab/model/q8/tiny.gguf.partial", "victim"),
        ("lab/model/q8/tiny.gguf.partial.json", "victim"),
    ] {
        let (mut scene, outside) = (Scene::new(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("victim"), "before").unwrap();
        let at = scene.models.path().join(link);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(outside.path().join(target), &at).unwrap();
        let refused = scene.download().await.unwrap_err();
        assert!(matches!(refused, DownloadError::Write { .. } | DownloadError::Exists { .. }), "{link}: {refused}");
        assert_eq!(everything_below(outside.path()), ["victim"], "{link}");
        assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "before", "{link}");
        assert!(scene.hub.asked_for_files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_the_hub_alone() {
    let elsewhere = TestHub::start();
    elsewhere.put("tiny.gguf", shipped());
    let location = format!("{}/elsewhere/tiny.gguf?signature=secret", elsewhere.endpoint);
    let mut scene = Scene::misbehaving([Fault::SendOn(location.clone()), Fault::SendOn(location)]);
    scene.token = Some("hf_test");
    elsewhere.misbehave([Fault::CutAfter(1_500_000)]);
    scene.download().await.unwrap();
    scene.assert_whole();
    assert!(scene.hub.asked().iter().all(|seen| seen.header("authorization") == Some("Bearer hf_test")));
    let there = elsewhere.asked();
    assert!(there.len() == 2 && there.iter().all(|seen| seen.header("authorization").is_none()));
    assert_eq!(there[1].header("range"), Some("bytes=1500000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_on_to_plain_http_elsewhere_or_in_circles() {
    for location in [
        "http://example.org/x",
        "file:///etc/passwd",
        "https://user:word@example.org/",
        "http://",
        "http://127.0.0.1:1@example.org/",
    ] {
        let mut scene = Scene::misbehaving([Fault::SendOn(location.to_owned())]);
        let refused = scene.download().await.unwrap_err();
        assert!(matches!(&refused, DownloadError::Answer(why) if why.contains("sends on")), "{location}: {refused}");
    }
    let mut scene = Scene::misbehaving((0..20).map(|_| Fault::SendOn("/lab/model/resolve/x/tiny.gguf".to_owned())));
    assert!(matches!(scene.download().await, Err(DownloadError::Answer(why)) if why.contains("too often")));
    assert_eq!(scene.hub.asked_for_files().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_verified_against_whatever_names_it() {
    let unnamed = json!([{"rfilename": FILE, "size": shipped().len()}]);
    let mut scene = Scene::new();
    scene.hub.list(unnamed.clone());
    assert!(matches!(scene.download().await, Err(DownloadError::Unverifiable)));
    // The answer itself names the digest.
    scene.hub.link();
    scene.download().await.unwrap();
    scene.assert_whole();
    // The catalogue does.
    let mut scene = Scene::new();
    scene.hub.list(unnamed.clone());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model"), shipped()).unwrap();
    scene.weights = Some(weights_of_file(&folder.path().join("model")).unwrap());
    scene.download().await.unwrap();
    scene.assert_whole();
    // The catalogue names another.
    let mut scene = Scene::new();
    scene.hub.list(unnamed);
    scene.weights = Some(Digest([7; 32]));
    assert!(matches!(scene.download().await, Err(DownloadError::Weights { .. })));
    assert!(scene.files().is_empty());
    // The answer contradicts the list.
    let mut scene = Scene::new();
    scene.hub.link();
    let mut listed = sibling(FILE, &shipped());
    listed["lfs"]["sha256"] = json!(Digest([7; 32]));
    scene.hub.list(json!([listed]));
    assert!(matches!(scene.download().await, Err(DownloadError::Digest { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogues_digest_chooses_the_file() {
    let mut scene = Scene::new();
    scene.hub.put("other.gguf", b"GGUF other".to_vec());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model"), shipped()).unwrap();
    let root = weights_of_file(&folder.path().join("model")).unwrap();
    scene.weights = Some(root);
    scene.get(Wanted::Weights(root)).await.unwrap();
    scene.assert_whole();
    assert!(matches!(scene.get(Wanted::Only).await, Err(DownloadError::Choose(ChooseError::Several { count: 2, .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_model_is_not_kept() {
    for bytes in [b"<html>not a model</html>".to_vec(), shipped()[..100_000].to_vec()] {
        let mut scene = Scene::new();
        scene.hub.put(FILE, bytes);
        assert!(matches!(scene.download().await, Err(DownloadError::NotAModel(_))));
        assert!(scene.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_disk_has_no_room_for_is_not_begun() {
    let mut scene = Scene::new();
    let mut listed = sibling(FILE, &shipped());
    listed["size"] = json!(4_u64 << 40);
    scene.hub.list(json!([listed]));
    let refused = scene.download().await.unwrap_err();
    assert!(matches!(refused, DownloadError::NoRoom { needed, free } if free < needed), "{refused}");
    assert!(scene.files().is_empty() && scene.hub.asked_for_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_name_is_left_alone() {
    let mut scene = Scene::new();
    let at = scene.models.path().join(PLACE);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, "mine").unwrap();
    assert!(matches!(scene.download().await, Err(DownloadError::Exists { .. })));
    assert_eq!((scene.files(), fs::read_to_string(&at).unwrap()), (vec![PLACE.to_owned()], "mine".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_write_into_each_other() {
    let mut scene = Scene::new();
    let partial = scene.models.path().join(format!("{PLACE}.partial"));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let held = fs::File::create(&partial).unwrap();
    held.lock().unwrap();
    assert!(matches!(scene.download().await, Err(DownloadError::InUse { .. })));
    drop(held);
    scene.download().await.unwrap();
    scene.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_list_is_refused() {
    let mut scene = Scene::new();
    scene.hub.list(json!("none"));
    assert!(matches!(scene.download().await, Err(DownloadError::Listing(_))));
    scene.hub.list(json!([{"rfilename": "x".repeat(9 << 20)}]));
    assert!(matches!(scene.download().await, Err(DownloadError::Answer(why)) if why.contains("over")));
}

#[test]
fn an_address_that_shows_the_token_to_others_is_refused() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let hub =
        |endpoint: &str| Hub::new(HubOptions { endpoint: endpoint.to_owned(), token: None, waits: Waits::default() });
    for wrong in [
        "http://example.org",
        "huggingface.co",
        "https://user:word@example.org",
        "https://example.org?x",
        "ftp://localhost",
        "",
    ] {
        assert!(matches!(hub(wrong), Err(DownloadError::Endpoint(_))), "{wrong}");
    }
    for fine in ["https://huggingface.co", "https://example.org/mirror/", "http://localhost:9"] {
        assert!(hub(fine).is_ok(), "{fine}");
    }
    assert!(
        !format!(
            "{:?}",
            Hub::new(HubOptions {
                endpoint: "https://example.org".to_owned(),
                token: Some("hf_secret".into()),
                waits: WAITS
            })
        )
        .contains("hf_secret")
    );
}
