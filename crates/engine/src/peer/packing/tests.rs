use outpost_cascade::{FallbackCause, Measured, Original};
use outpost_runtime::{ImageLimits, ModelFolder, Preprocessor, RgbImage, decode};

use super::*;

fn manifest(name: &str) -> Manifest {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    ModelFolder::new(models).manifest(name).unwrap()
}

/// A sample photo, 299 pixels wide or high at least.
fn photo() -> Picture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/samples/photos");
    let files = fs::read_dir(folder).unwrap();
    let mut photos: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    photos.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    photos.sort();
    Picture::read(&photos[0], &ImageLimits::default()).unwrap()
}

fn config(encoding: &str) -> PackingConfig {
    PackingConfig {
        encoding: encoding.parse().unwrap(),
        encoders: None,
        max_accuracy_loss: 1.0,
        keep_metadata: false,
    }
}

fn packing(encoding: &str) -> Packing {
    Packing::new(&config(encoding), &[&manifest("efficientnet-lite2")]).unwrap()
}

fn thin() -> Link {
    link(10e3)
}

fn link(bytes_a_second: f64) -> Link {
    Link {
        round_trip: 0.02,
        per_byte: 1.0 / bytes_a_second,
        at_peer: 0.03,
        queued: 0.01,
        sent_share: 1.0,
        encoding: 0.0,
        failed: 0.0,
    }
}

fn pack(packing: &Packing, picture: &Picture, link: Option<&Link>) -> Packed {
    match packing.pack(picture, link, &Formats::default()) {
        Ok(packed) => packed,
        Err(failure) => panic!("{}", failure.source),
    }
}

#[test]
fn what_is_encoded_anew_is_what_the_network_sees_and_holds_no_metadata() {
    let picture = photo();
    let spec = manifest("efficientnet-lite2").input;
    let seen = Fit::new([&spec])
        .unwrap()
        .apply(&picture.pixels().unwrap())
        .into_owned();
    let preprocessor = Preprocessor::new(spec);
    let tensor = |pixels: &RgbImage| preprocessor.tensor(pixels).unwrap();
    assert_eq!(tensor(&seen), tensor(&picture.pixels().unwrap()));
    for encoding in ["jpeg@80", "webp@80"] {
        let packed = pack(&packing(encoding), &picture, None);
        assert_eq!(packed.sent_as.to_string(), encoding);
        let encoded = packed.encoded.unwrap();
        let decoded = decode(&encoded, &ImageLimits::default()).unwrap();
        assert_eq!(decoded.dimensions(), seen.dimensions());
        let differences = decoded.as_raw().iter().zip(seen.as_raw());
        let sum: u64 = differences.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(sum / (seen.as_raw().len() as u64) < 8, "{encoding}: {sum}");
        assert_eq!(without_metadata(&encoded), Some(encoded));
    }
}

#[test]
fn an_image_that_is_smaller_as_it_was_read_is_sent_so() {
    let grain = (0u32..64 * 64 * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    let small = RgbImage::from_raw(64, 64, grain.collect()).unwrap();
    let encoder: Encoder = "jpeg@20".parse().unwrap();
    let encoded = encoder.encode(&small).unwrap().into();
    let picture = Picture::decode(encoded, &ImageLimits::default()).unwrap();
    let packed = pack(&packing("jpeg@90"), &picture, None);
    assert_eq!(packed.sent_as, SentAs::Original);
    assert_eq!(
        packed.encoded.map(|sent| sent.len()),
        picture.encoded().map(|read| read.len())
    );
}

#[test]
fn pixels_are_encoded_where_an_encoder_is_given_and_else_sent_as_they_are() {
    let picture = Picture::new(None, photo().pixels().unwrap().into_owned());
    assert_eq!(
        pack(&Packing::original(), &picture, None).sent_as,
        SentAs::Pixels
    );
    let packed = pack(&packing("webp@50"), &picture, None);
    assert_eq!(packed.sent_as.to_string(), "webp@50");
}

#[test]
fn auto_follows_the_link_within_the_loss_that_was_asked_for() {
    let network = manifest("efficientnet-lite2");
    let measured = |encoder: &str, bytes, lost_points, encode_ms| Measured {
        encoder: encoder.parse().unwrap(),
        bytes,
        top1: 0.9,
        lost_points,
        lost_points_low: lost_points,
        lost_points_high: lost_points,
        resize_ms: 1.0,
        encode_ms,
    };
    let original = Original {
        bytes: 110e3,
        top1: 0.9,
    };
    let encoders = vec![
        measured("jpeg@90", 34e3, 0.0, 0.5),
        measured("webp@80", 15e3, 0.5, 6.0),
        measured("webp@20", 6e3, 5.0, 6.0),
    ];
    let digest = network.sha256.clone();
    let name = network.name.clone();
    let profile = EncoderProfile::new(name, digest, 9, String::new(), original, encoders);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    let write = |profile: &EncoderProfile<Encoder>| {
        fs::write(&path, serde_json::to_vec(profile).unwrap()).unwrap();
    };
    write(&profile);
    let auto = PackingConfig {
        encoders: Some(path.clone()),
        ..config("auto")
    };
    let packing = Packing::new(&auto, &[&network]).unwrap();
    let picture = photo();
    let sent_as = |link: Link| pack(&packing, &picture, Some(&link)).sent_as.to_string();
    assert_eq!(sent_as(link(1e9)), "jpeg@90");
    assert_eq!(sent_as(thin()), "webp@80");
    // A server that takes no WebP gets none.
    let listed = "jpeg,png".to_owned();
    let packed = packing.pack(&picture, Some(&thin()), &Formats::listed(Some(&listed)));
    assert!(packed.is_ok_and(|packed| packed.sent_as.to_string() == "jpeg@90"));

    let refused = |config: &PackingConfig| Packing::new(config, &[&network]).err().unwrap();
    let strict = PackingConfig {
        max_accuracy_loss: 0.0,
        ..auto.clone()
    };
    assert!(Packing::new(&strict, &[&network]).is_ok());
    let other = EncoderProfile {
        digest: "0".repeat(64),
        ..profile.clone()
    };
    write(&other);
    assert!(refused(&auto).to_string().contains("other weights"));
    fs::write(&path, "{}").unwrap();
    assert!(matches!(refused(&auto), EncodersError::Parse { .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(&auto), EncodersError::Read { .. }));
    let lonely = manifest("squeezenet1.0");
    let missing = Packing::new(&config("auto"), &[&lonely]).err().unwrap();
    assert!(missing.to_string().contains("lab encoders"), "{missing}");
}

#[test]
fn avif_goes_only_to_who_takes_it_or_was_chosen_for() {
    let takes = |listed: Option<&str>| {
        let listed = listed.map(str::to_owned);
        let formats = Formats::listed(listed.as_ref());
        (formats.take(Codec::Avif), formats.refuse(Codec::Avif))
    };
    assert_eq!(takes(None), (false, false));
    assert_eq!(takes(Some("jpeg,png")), (false, true));
    assert_eq!(takes(Some("jpeg, avif")), (true, false));
    let listed = "png".to_owned();
    let refused = packing("webp@80").pack(&photo(), None, &Formats::listed(Some(&listed)));
    let failure = refused.err().unwrap();
    assert_eq!(failure.cause, FallbackCause::Unsendable);
    assert!(failure.source.to_string().contains("takes no webp"));
}

#[test]
fn nonsense_is_refused_and_says_what_to_give() {
    for nonsense in ["jpeg", "jpeg@0", "jpeg@101", "webp@x", "png@90", "Auto", ""] {
        let refused = nonsense.parse::<Encoding>().unwrap_err().to_string();
        assert!(
            refused.contains("jpeg@QUALITY") && refused.contains("auto"),
            "{refused}"
        );
    }
}
