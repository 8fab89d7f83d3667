use tract_onnx::tract_core::ops::math::add;

use super::*;
use crate::tract::planes::Geometry;

/// The maximum over windows of three pixels, a row of `width` to one of `width - 2`.
fn largest(width: usize) -> MaxPooling {
    MaxPooling::new(Geometry {
        groups: 2,
        input: [2, 1, width],
        output: [2, 1, width - 2],
        kernel: [1, 3],
        strides: [1, 1],
        dilations: [1, 1],
        padding: [0, 0],
    })
}

/// Rows of 12 pixels go through two operators of ours, of which only the second reads the first, and then through tract's
/// sum with itself.
fn plan() -> Plan {
    let mut model = TypedModel::default();
    let image = model.add_source("image", f32::fact([1, 2, 1, 12])).unwrap();
    let wide = model.wire_node("wide", largest(12), &[image]).unwrap()[0];
    let narrow = model.wire_node("narrow", largest(10), &[wide]).unwrap()[0];
    let twice = model.wire_node("twice", add(), &[narrow; 2]).unwrap();
    model.select_output_outlets(&twice).unwrap();
    Plan::new(model).unwrap()
}

fn run(session: &mut Session, plan: &Plan, image: &[f32]) -> TValue {
    let input = session.input(plan, &[1, 2, 1, 12], |input| input.copy_from_slice(image));
    session.run(0, plan, input.unwrap()).unwrap().remove(0)
}

fn values(tensor: &TValue) -> &[f32] {
    tensor.try_as_plain_ram().unwrap().as_slice().unwrap()
}

fn image(seed: usize) -> Vec<f32> {
    let pixel = |index: usize| ((index * 7919 + seed * 104_729) % 401) as f32;
    (0..24).map(pixel).collect()
}

/// Twice the largest of five neighbours.
fn expected(image: &[f32]) -> Vec<f32> {
    let rows = image.chunks_exact(12);
    let windows = rows.flat_map(|row| row.windows(5));
    windows
        .map(|window| 2.0 * window.iter().copied().fold(f32::MIN, f32::max))
        .collect()
}

#[test]
fn memory_is_used_again_and_what_somebody_has_is_left_alone() {
    let (plan, mut session) = (plan(), Session::default());
    let first = run(&mut session, &plan, &image(1));
    let pieces = |session: &Session| {
        let shared = session.memory.shared.iter().map(|piece| &piece.tensor);
        let mut pieces: Vec<_> = shared
            .chain(&session.memory.exact)
            .map(Arc::as_ptr)
            .collect();
        pieces.sort_unstable();
        pieces
    };
    let after_one = pieces(&session);
    let second = run(&mut session, &plan, &image(2));
    for (seed, said) in [(1, &first), (2, &second)] {
        assert_eq!(values(said), expected(&image(seed)));
    }
    for seed in 3..6 {
        let said = run(&mut session, &plan, &image(seed));
        assert_eq!(values(&said), expected(&image(seed)));
    }
    assert_eq!(pieces(&session), after_one);
}

#[test]
fn what_only_ours_read_lies_in_pieces_that_fit_and_what_tract_reads_in_its_length() {
    let (plan, mut session) = (plan(), Session::default());
    run(&mut session, &plan, &image(1));
    let Memory { shared, exact } = &session.memory;
    let mut rooms: Vec<usize> = shared.iter().map(|piece| piece.room).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, [20, 24]);
    assert_eq!(exact.iter().map(|one| one.len()).collect::<Vec<_>>(), [16]);
}

#[test]
fn a_piece_that_is_too_small_makes_way_for_one_that_is_not() {
    let mut memory = Memory::default();
    let write = |memory: &mut Memory, len: usize| {
        let shape = [1, len];
        let fill = |output: &mut [f32]| {
            output.fill(len as f32);
            Ok(())
        };
        memory.write(Place::Shared, &shape, fill).unwrap()
    };
    for (len, rooms) in [
        (4, vec![4]),
        (9, vec![9]),
        // Fits, and is no larger for its reader.
        (5, vec![9]),
    ] {
        let tensor = write(&mut memory, len);
        assert_eq!(
            (tensor.shape(), values(&tensor)),
            (&[1, len][..], &vec![len as f32; len][..])
        );
        drop(tensor);
        assert_eq!(
            memory.shared.iter().map(|one| one.room).collect::<Vec<_>>(),
            rooms
        );
    }
    let held = write(&mut memory, 9);
    let other = write(&mut memory, 3);
    assert_eq!(
        (values(&held), values(&other)),
        (&[9.0; 9][..], &[3.0; 3][..])
    );
    assert_eq!(memory.shared.len(), 2);
}

#[test]
fn a_run_that_fails_leaves_nothing_behind() {
    let (plan, mut session) = (plan(), Session::default());
    let before = run(&mut session, &plan, &image(1));
    let wrong = Tensor::zero::<f32>(&[1, 2, 1, 11]).unwrap().into_tvalue();
    let error = session.run(0, &plan, wrong).unwrap_err();
    assert!(format!("{error:#}").contains("11"), "{error:#}");
    let after = run(&mut session, &plan, &image(1));
    assert_eq!(values(&before), values(&after));
}
