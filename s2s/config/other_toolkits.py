"""The options of other toolkits, and the keys of s2s that stand for them."""

from collections.abc import Iterable

# Options of fairseq and of Hugging Face's scripts, with `_` for `-` -> the key, perhaps with its value. A command is
# offered those keys that it has.
OPTIONS: dict[str, tuple[str, ...]] = {
    name: keys
    for names, keys in (
        (("max_tokens", "max_tokens_valid"), ("data.batch_tokens", "decode.batch_tokens")),
        (("batch_size", "max_sentences", "per_device_train_batch_size"), ("data.batch_sentences", "decode.slots")),
        (("update_freq", "gradient_accumulation_steps"), ("train.accumulate",)),
        (("lr", "learning_rate"), ("optim.lr",)),
        (("lr_scheduler", "lr_scheduler_type"), ("optim.schedule",)),
        (("warmup_steps",), ("optim.warmup_updates",)),
        (("stop_min_lr", "min_lr"), ("optim.min_lr",)),
        (("optimizer",), ("optim",)),
        (("arch", "a"), ("model",)),
        (("max_update", "max_steps"), ("train.max_updates",)),
        (("max_epoch", "num_train_epochs", "epochs"), ("train.max_epochs",)),
        (("save_dir", "output_dir"), ("run",)),
        (("restore_file", "finetune_from_model"), ("train.init.checkpoint",)),
        (("save_interval_updates", "save_steps"), ("train.checkpoint_updates",)),
        (("validate_interval_updates", "eval_steps"), ("train.valid_updates",)),
        (("log_interval", "logging_steps"), ("train.log_updates",)),
        (("best_checkpoint_metric",), ("train.best_metric",)),
        (("max_grad_norm",), ("train.clip_norm",)),
        (("eval_bleu",), ("train.valid_metrics=[bleu]",)),
        (("fp16", "bf16"), ("train.precision=bf16", "decode.dtype=bf16")),
        (("cpu", "no_cuda"), ("device=cpu",)),
        (("distributed_world_size", "nproc_per_node"), ("distributed.processes",)),
        (("num_workers", "dataloader_num_workers"), ("workers",)),
        (("user_dir",), ("plugins",)),
        (("share_all_embeddings",), ("model.tie_embeddings=all",)),
        (("share_decoder_input_output_embed",), ("model.tie_embeddings=decoder",)),
        (("encoder_embed_dim", "d_model"), ("model.encoder.width",)),
        (("decoder_embed_dim",), ("model.decoder.width",)),
        (("encoder_ffn_embed_dim",), ("model.encoder.ffn_width",)),
        (("decoder_ffn_embed_dim",), ("model.decoder.ffn_width",)),
        (("encoder_attention_heads",), ("model.encoder.heads",)),
        (("decoder_attention_heads",), ("model.decoder.heads",)),
        (("encoder_layers",), ("model.encoder.layers",)),
        (("decoder_layers",), ("model.decoder.layers",)),
        (("source_lang", "src", "src_lang", "s"), ("source", "input")),
        (("target_lang", "tgt", "tgt_lang", "t"), ("target",)),
        (("trainpref", "train_file"), ("train",)),
        (("validpref", "validation_file"), ("valid",)),
        (("testpref", "test_file"), ("test",)),
        (("destdir", "data", "data_dir"), ("store",)),
        (("joined_dictionary",), ("tokenizer.joint=true",)),
        (("srcdict", "tgtdict"), ("tokenizer=words tokenizer.vocabulary=FILE",)),
        (("bpe",), ("tokenizer.algorithm=bpe",)),
        (("path", "model_name_or_path"), ("checkpoint",)),
        (("beam", "num_beams", "beam_size"), ("decode.beam_size",)),
        (("nbest", "num_return_sequences"), ("decode.n_best",)),
        (("lenpen",), ("decode.length_penalty",)),
        (("gen_subset",), ("split",)),
        (("max_len_a",), ("decode.max_length_a",)),
        (("max_len_b", "max_length"), ("decode.max_length_b",)),
        (("min_len", "min_length"), ("decode.min_length_b",)),
        (("no_repeat_ngram_size",), ("decode.no_repeat_ngram",)),
        (("diverse_beam_groups",), ("decode.diverse_groups",)),
        (("sampling", "do_sample"), ("decode.search=sample",)),
        (("sampling_topk",), ("decode.top_k",)),
        (("sampling_topp",), ("decode.top_p",)),
        (("score_reference",), ("mode=score",)),
        (("hyp", "sys", "i"), ("hypothesis", "input")),
        (("ref", "r"), ("reference",)),
    )
    for name in names
}  # fmt: skip


def instead(name: str, known: Iterable[str]) -> list[str]:
    """The keys that a command has in place of an option of another toolkit, perhaps with a value."""
    known = set(known)
    return [key for key in OPTIONS.get(name, ()) if key.partition("=")[0] in known]
