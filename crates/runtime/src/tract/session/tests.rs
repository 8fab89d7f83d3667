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

/// Rows of 12 pixels, of which three operators of ours make rows of 6, one reading the other; what is left of the second, and twice
/// what is left of the third, are the outputs.
fn plan() -> Plan {
    let mut model = TypedModel::default();
    let mut last = model.add_source("image", f32::fact([1, 2, 1, 12])).unwrap();
    let rows = [12, 10, 8].map(|width| {
        last = model
            .wire_node(format!("{width}"), largest(width), &[last])
            .unwrap()[0];
        last
    });
    let twice = model.wire_node("twice", add(), &[rows[2]; 2]).unwrap()[0];
    model.select_output_outlets(&[rows[1], twice]).unwrap();
    Plan::new(model).unwrap()
}

fn run(session: &mut Session, plan: &Plan, image: &[f32]) -> TVec<TValue> {
    let input = session.input(plan, &[1, 2, 1, 12], |input| input.copy_from_slice(image));
    session.run(0, plan, input.unwrap()).unwrap()
}

fn values(tensor: &TValue) -> &[f32] {
    tensor.try_as_plain_ram().unwrap().as_slice().unwrap()
}

fn image(seed: usize) -> Vec<f32> {
    let pixel = |index: usize| ((index * 7919 + seed * 104_729) % 401) as f32;
    (0..24).map(pixel).collect()
}

/// The largest of so many neighbours, so many times.
fn expected(image: &[f32], neighbours: usize, times: f32) -> Vec<f32> {
    let rows = image.chunks_exact(12);
    let windows = rows.flat_map(|row| row.windows(neighbours));
    windows
        .map(|window| times * window.iter().copied().fold(f32::MIN, f32::max))
        .collect()
}

fn assert_is_of(outputs: &[TValue], seed: usize) {
    let image = image(seed);
    assert_eq!(values(&outputs[0]), expected(&image, 5, 1.0));
    assert_eq!(values(&outputs[1]), expected(&image, 7, 2.0));
}

#[test]
fn memory_is_used_again_and_what_leaves_does_not_lie_in_it() {
    let (plan, mut session) = (plan(), Session::default());
    let first = run(&mut session, &plan, &image(1));
    let pieces = |session: &Session| {
        let pieces = session.memory.0.iter();
        let mut pieces: Vec<_> = pieces
            .map(|piece| (piece.room, Arc::as_ptr(&piece.tensor)))
            .collect();
        pieces.sort_unstable();
        pieces
    };
    let after_one = pieces(&session);
    // The image, and what the first operator makes of it; the second's output leaves, and the third's is for tract.
    assert_eq!(
        after_one.iter().map(|one| one.0).collect::<Vec<_>>(),
        [20, 24]
    );
    let all: Vec<_> = (2..6)
        .map(|seed| run(&mut session, &plan, &image(seed)))
        .collect();
    assert_is_of(&first, 1);
    for (outputs, seed) in all.iter().zip(2..) {
        assert_is_of(outputs, seed);
    }
    assert_eq!(pieces(&session), after_one);
}

#[test]
fn a_piece_that_is_too_small_makes_way_for_one_that_is_not() {
    let mut memory = Memory::default();
    let write = |memory: &mut Memory, len: usize| {
        let fill = |output: &mut [f32]| {
            output.fill(len as f32);
            Ok(())
        };
        memory.write(&[1, len], fill).unwrap()
    };
    for (len, rooms) in [
        (4, [4]),
        (9, [9]),
        // Fits, and is no larger for its reader.
        (5, [9]),
    ] {
        let tensor = write(&mut memory, len);
        assert_eq!(tensor.shape(), [1, len]);
        assert_eq!(values(&tensor), vec![len as f32; len]);
        drop(tensor);
        assert!(memory.0.iter().map(|piece| piece.room).eq(rooms));
    }
    let held = write(&mut memory, 9);
    let other = write(&mut memory, 3);
    assert_eq!(values(&held), [9.0; 9]);
    assert_eq!(values(&other), [3.0; 3]);
    assert_eq!(memory.0.len(), 2);
}

#[test]
fn a_run_that_fails_leaves_nothing_behind() {
    let mut model = TypedModel::default();
    let image = model.add_source("image", f32::fact([1, 2, 1, 12])).unwrap();
    let first = model.wire_node("first", largest(12), &[image]).unwrap();
    // It wants another width than it is given.
    let second = model.wire_node("second", largest(11), &first).unwrap();
    let last = model.wire_node("last", largest(9), &second).unwrap();
    model.select_output_outlets(&last).unwrap();
    let (fails, runs) = (Plan::new(model).unwrap(), plan());
    let mut session = Session::default();
    for seed in 1..4 {
        let input = session.input(&fails, &[1, 2, 1, 12], |input| input.fill(1.0));
        let error = session.run(0, &fails, input.unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains("second"), "{error:#}");
        let is_free = |piece: &Piece| Arc::strong_count(&piece.tensor) == 1;
        assert!(session.memory.0.iter().all(is_free));
        assert_is_of(&run(&mut session, &runs, &self::image(seed)), seed);
    }
}
