"""The stand-in for a GPU itself: what it refuses, and what it counts."""


def test_what_it_refuses_and_counts(child):
    seen = child("examples")
    assert "add: expected all tensors to be on the same device" in seen["two devices"]
    assert "index_put_: expected all tensors" in seen["value of an assignment"]
    assert "can't convert cuda:0" in seen["numpy"]
    assert seen["waits"] == {"item": 1, "tolist": 1, "copy to the host": 1, "nonzero": 1, "index by a mask": 1,
                             "repeat_interleave": 1}  # fmt: skip
    assert seen["copies"] == {"blocking": 2, "asynchronous": 1, "blocking, of an index": 1}
    assert seen["operators"] == {"ones": 1, "mul": 1, "add_": 1}
    assert seen["gradient"] == seen["gradient on the CPU"]
    assert seen["attention"] == seen["attention on the CPU"]
    assert seen["after"] == [False, "cpu"]
