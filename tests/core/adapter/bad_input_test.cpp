// Whatever is wrong with an adapter is refused in one line that names the file, the field, what was found and what was
// expected.
#include "tests/core/adapter/peft_fixture.h"

#include <QtTest>

#include <fstream>
#include <functional>

using namespace spartan;

namespace {

struct BadCase {
    const char* title;
    const char* kind;  // of the good adapter that `spoil` starts from
    std::function<void(PeftFiles&)> spoil;
    std::vector<const char*> words;  // all in the message
};

void write_raw(const std::string& path, const std::string& content) { std::ofstream(path) << content; }

const std::string kQ0 = "model.layers.0.self_attn.q_proj";

std::function<void(PeftFiles&)> config_key(const char* key, Json value) {
    return [=](PeftFiles& f) { f.config[key] = value; };
}

std::vector<BadCase> bad_cases() {
    const auto key = config_key;
    return {
        // A44: peft_type
        {"unknown type",
         "lora",
         key("peft_type", "IA3"),
         {"adapter_config.json", "peft_type", "IA3", "LORA, BOFT, OFT"}},
        {"missing type",
         "lora",
         [](PeftFiles& f) { f.config.erase("peft_type"); },
         {"adapter_config.json", "peft_type", "nothing"}},
        {"numeric type", "lora", key("peft_type", 3), {"adapter_config.json", "peft_type", "3"}},
        {"task", "lora", key("task_type", "FEATURE_EXTRACTION"), {"task_type", "FEATURE_EXTRACTION", "CAUSAL_LM"}},
        // A45, A46: shapes against the base and among themselves
        {"inputs",
         "lora",
         [](PeftFiles& f) {
             f.at(kQ0 + ".lora_A.weight") = {{4, 56}, normals(4 * 56, 1, 1)};
         },
         {"adapter_model.safetensors", "q_proj.lora_A", "56 inputs", "48 inputs and 32 outputs", "tiny"}},
        {"outputs",
         "boft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".boft_s") = {{40, 1}, normals(40, 1, 1)};
         },
         {"q_proj.boft_R", "40 outputs", "48 inputs and 32 outputs"}},
        {"layer",
         "lora",
         [](PeftFiles& f) {
             for (auto& [name, tensor] : f.tensors) {
                 const size_t at = name.find("layers.1");
                 if (at != std::string::npos) name.replace(at, 8, "layers.7");
             }
         },
         {"layer 7", "0 to 1"}},
        {"A without B",
         "lora",
         [](PeftFiles& f) { f.tensors.erase(f.tensors.begin() + 1); },
         {kQ0.c_str(), "no lora_B"}},
        {"B without A", "lora", [](PeftFiles& f) { f.tensors.erase(f.tensors.begin()); }, {kQ0.c_str(), "no lora_A"}},
        {"R without s",
         "boft",
         [](PeftFiles& f) { f.tensors.erase(f.tensors.begin() + 1); },
         {kQ0.c_str(), "no boft_s"}},
        {"DoRA without magnitude", "lora", key("use_dora", true), {kQ0.c_str(), "no lora_magnitude_vector"}},
        {"magnitude without DoRA",
         "lora",
         [](PeftFiles& f) { f.add(kQ0 + ".lora_magnitude_vector", {32}); },
         {"lora_magnitude_vector", "another kind"}},
        {"A and B disagree",
         "lora",
         [](PeftFiles& f) {
             f.at(kQ0 + ".lora_B.weight") = {{32, 5}, normals(160, 1, 1)};
         },
         {"lora_B", "[32, 5]", "[out, 4]"}},
        {"rank-1 A",
         "lora",
         [](PeftFiles& f) { f.at(kQ0 + ".lora_A.weight").shape = {192}; },
         {"lora_A", "[192]", "[r, in]"}},
        {"the same part twice",
         "lora",
         [](PeftFiles& f) {
             f.add("_orig_mod." + kQ0 + ".lora_A.weight", {4, 48});
         },
         {"the same part as"}},
        {"foreign part",
         "lora",
         [](PeftFiles& f) {
             f.add(kQ0 + ".boft_R", {1, 6, 8, 8});
         },
         {"boft_R", "another kind", "lora"}},
        {"unknown tensor",
         "lora",
         [](PeftFiles& f) {
             f.add(kQ0 + ".hada_w1_a", {4, 48});
         },
         {"hada_w1_a", "not part of"}},
        {"no adapted module",
         "lora",
         [](PeftFiles& f) {
             f.tensors.clear();
             f.add(kQ0 + ".boft_P", {1});
         },
         {"no adapted module"}},
        {"headless model",
         "lora",
         [](PeftFiles& f) {
             for (auto& [name, tensor] : f.tensors) name.erase(0, 6);
         },
         {"layers.0.self_attn.q_proj", "CAUSAL_LM"}},
        {"norm of another size",
         "lora",
         [](PeftFiles& f) {
             f.config["modules_to_save"] = {"norm"};
             f.add("model.norm.weight", {40});
         },
         {"model.norm.weight", "[40]", "[48]"}},
        {"norm that the base has not",
         "lora",
         [](PeftFiles& f) {
             f.config["modules_to_save"] = {"q_norm"};
             f.add("model.layers.0.self_attn.q_norm.weight", {8});
         },
         {"q_norm", "has not", "norms of the base"}},
        {"copy of a projection",
         "lora",
         [](PeftFiles& f) {
             f.add("model.layers.0.self_attn.k_proj.weight", {16, 48});
         },
         {"k_proj.weight", "a full weight", "merge_and_unload"}},
        // A47: targets
        {"target of no layer",
         "lora",
         key("target_modules", {"q_proj", "c_attn"}),
         {"target_modules", "c_attn", "tiny"}},
        {"target without its tensors' module",
         "lora",
         key("target_modules", {"v_proj"}),
         {"target_modules", kQ0.c_str()}},
        {"excluded module", "lora", key("exclude_modules", {"q_proj"}), {"exclude_modules", kQ0.c_str()}},
        {"other layers", "lora", key("layers_to_transform", {0}), {"layers_to_transform", "layer 1"}},
        {"layers pattern", "lora", key("layers_pattern", "h"), {"layers_pattern", "\"h\""}},
        {"targets of a wrong type", "lora", key("target_modules", {1, 2}), {"target_modules", "module names"}},
        // A48: numbers
        {"r 0", "lora", key("r", 0), {"adapter_config.json: r", "found 0"}},
        {"r -1", "lora", key("r", -1), {"adapter_config.json: r", "found -1"}},
        {"r 2^31", "lora", key("r", int64_t(1) << 31), {"adapter_config.json: r", "2147483648"}},
        {"r text", "lora", key("r", "8"), {"adapter_config.json: r", "\"8\""}},
        {"r of another rank", "lora", key("r", 8), {"lora_A", "rank 4", "8 (r of the config)"}},
        {"alpha text", "lora", key("lora_alpha", "NaN"), {"lora_alpha", "\"NaN\"", "a number"}},
        {"alpha huge", "lora", key("lora_alpha", 1e300), {"lora_alpha", "1e+300"}},
        {"alpha NaN", "lora", [](PeftFiles&) {}, {"adapter_config.json", "valid JSON"}},  // the test writes NaN itself
        {"rank pattern of a wrong type",
         "lora",
         key("rank_pattern", {{"q_proj", "x"}}),
         {"rank_pattern", "q_proj", "\"x\""}},
        {"rank pattern rank 0", "lora", key("rank_pattern", {{"q_proj", 0}}), {"rank_pattern", "q_proj", "found 0"}},
        {"catastrophic pattern",
         "lora",
         key("alpha_pattern", {{"([a-z_.0-9]+)*\\d", 1}}),
         {"alpha_pattern", "too long"}},
        {"pattern beyond the shared syntax",
         "lora",
         key("alpha_pattern", {{"(?<=a)q_proj", 1}}),
         {"alpha_pattern", "(?<=a)q_proj"}},
        {"invalid pattern",
         "lora",
         key("alpha_pattern", {{"q_proj)", 1}}),
         {"alpha_pattern", "valid regular expression"}},
        // A49: not numbers
        {"NaN weight",
         "lora",
         [](PeftFiles& f) { f.at(kQ0 + ".lora_B.weight").values[7] = NAN; },
         {"adapter_model.safetensors", "q_proj.lora_B.weight[7]", "NaN", "finite"}},
        {"infinite weight",
         "boft",
         [](PeftFiles& f) { f.at(kQ0 + ".boft_R").values[65] = INFINITY; },
         {"q_proj.boft_R[65]", "inf"}},
        // A50: OFT geometry
        {"OFT both sizes", "oft", key("r", 6), {"oft_block_size", "8 with r 6", "exactly one"}},
        {"OFT no size", "oft", key("oft_block_size", 0), {"oft_block_size", "0 with r 0", "exactly one"}},
        {"OFT width",
         "oft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".oft_R.weight") = {{5, 28}, normals(140, 1, 1)};
         },
         {"oft_R", "40 inputs", "48 inputs"}},
        {"OFT not triangular",
         "oft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".oft_R.weight") = {{6, 27}, normals(162, 1, 1)};
         },
         {"oft_R", "[6, 27]", "b (b - 1) / 2"}},
        {"OFT share with rows", "oft", key("block_share", true), {"oft_R", "[6, 28]", "one row"}},
        {"OFT shared block does not divide",
         "oft",
         [](PeftFiles& f) {
             f.config["block_share"] = true;
             for (auto& [name, tensor] : f.tensors) tensor = {{1, 21}, normals(21, 1, 1)};  // b = 7
         },
         {"oft_R", "blocks of 7", "a divisor of 48"}},
        // A51: Neumann terms
        {"terms 10^9",
         "oft",
         key("num_cayley_neumann_terms", 1000000000),
         {"num_cayley_neumann_terms", "1000000000", "to 64"}},
        {"terms -1", "oft", key("num_cayley_neumann_terms", -1), {"num_cayley_neumann_terms", "-1"}},
        {"version", "oft", key("peft_version", "new"), {"peft_version", "\"new\""}},
        // A53: old generations
        {"OFT 0.7",
         "oft",
         [](PeftFiles& f) {
             f.config.erase("oft_block_size");
             f.config["r"] = 8;
             f.tensors.clear();
             f.add(kQ0 + ".oft_r", {8, 4, 4});
         },
         {"oft_r", "PEFT 0.7 to 0.13", "rotates outputs", "merge_and_unload"}},
        {"OFT tensors without their config",
         "oft",
         [](PeftFiles& f) { f.config.erase("oft_block_size"); },
         {"oft_block_size", "nothing", "0.14"}},
        {"OFT 0.14 of an embedding",
         "oft",
         [](PeftFiles& f) {
             f.tensors.clear();
             f.add("model.embed_tokens.oft_r", {6, 8, 8});
             f.add("model.embed_tokens.oft_s", {48, 1});
         },
         {"embed_tokens.oft_r", "the module model.embed_tokens", "lm_head"}},
        {"OFT 0.14 shared with more blocks",
         "oft",
         [](PeftFiles& f) {
             f.config["block_share"] = true;
             f.tensors.clear();
             f.add(kQ0 + ".oft_r", {6, 8, 8});
             f.add(kQ0 + ".oft_s", {32, 1});
         },
         {"oft_r", "[6, 8, 8]", "block_share"}},
        {"OFT 0.14 without R",
         "oft",
         [](PeftFiles& f) {
             f.tensors.clear();
             f.add(kQ0 + ".oft_s", {32, 1});
         },
         {"oft_s", "no oft_r"}},
        {"OFT 0.14 of two shapes",
         "oft",
         [](PeftFiles& f) {
             f.tensors.clear();
             f.add(kQ0 + ".oft_r", {6, 8, 7});
             f.add(kQ0 + ".oft_s", {32, 1});
         },
         {"oft_r", "[6, 8, 7]", "[blocks, b, b]"}},
        // A54: what is not supported
        {"modules_to_save without its tensor",
         "lora",
         key("modules_to_save", {"lm_head"}),
         {"modules_to_save", "lm_head", "no copy"}},
        {"trained tokens without rows",
         "lora",
         key("trainable_token_indices", {1, 2}),
         {"trainable_token_indices", "embed_tokens", "without rows"}},
        {"trained tokens of a wrong type",
         "lora",
         key("trainable_token_indices", "1"),
         {"trainable_token_indices", "\"1\""}},
        {"trained token -1", "lora", key("trainable_token_indices", {-1}), {"trainable_token_indices", "-1"}},
        {"trained token twice",
         "lora",
         key("trainable_token_indices", {1, 1}),
         {"trainable_token_indices", "each token once"}},
        {"trained token beyond the vocabulary",
         "lora",
         [](PeftFiles& f) {
             f.config["trainable_token_indices"] = {1, 50};
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
         },
         {"trainable_token_indices", "50", "below 50"}},
        {"trained tokens of another number",
         "lora",
         [](PeftFiles& f) {
             f.config["trainable_token_indices"] = {1, 2, 3};
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
         },
         {"trainable_tokens_delta", "[2, 48]", "[3, hidden]"}},
        {"trained tokens of another width",
         "lora",
         [](PeftFiles& f) {
             f.config["trainable_token_indices"] = {1, 2};
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 40});
         },
         {"trainable_tokens_delta", "[2, 40]", "rows of 48"}},
        {"trained tokens of an adapted table",
         "lora",
         [](PeftFiles& f) {
             f.config["trainable_token_indices"] = {1, 2};
             f.config["target_modules"] = {"q_proj", "embed_tokens"};
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
             f.add("model.embed_tokens.lora_embedding_A", {4, 50});
             f.add("model.embed_tokens.lora_embedding_B", {48, 4});
         },
         {"trainable_tokens_delta", "adapted as well"}},
        {"tied copies that differ",
         "lora",
         [](PeftFiles& f) {
             f.config["ensure_weight_tying"] = true;
             f.config["modules_to_save"] = {"embed_tokens"};
             f.add("model.embed_tokens.weight", {50, 48});
             f.add("lm_head.weight", {50, 48});
         },
         {"lm_head.weight", "differs from", "embed_tokens.weight", "ensure_weight_tying"}},
        {"a tied embedding without the head's part",
         "lora",
         [](PeftFiles& f) {
             f.config["ensure_weight_tying"] = true;
             f.config["target_modules"] = {"q_proj", "embed_tokens"};
             f.add("model.embed_tokens.lora_embedding_A", {4, 50});
             f.add("model.embed_tokens.lora_embedding_B", {48, 4});
         },
         {"ensure_weight_tying", "none of lm_head", "lora_A"}},
        {"trained tokens of a head alone without rows",
         "lora",
         [](PeftFiles& f) {
             f.config["trainable_token_indices"] = {{"embed_tokens", {1, 2}}, {"lm_head", {2, 1}}};
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
         },
         {"trainable_token_indices", "lm_head", "without rows"}},
        {"fused names on a base without",
         "lora",
         [](PeftFiles& f) {
             f.config["target_modules"] = {"q_proj", "qkv_proj"};
             f.add("model.layers.0.self_attn.qkv_proj.lora_A.weight", {4, 48});
             f.add("model.layers.0.self_attn.qkv_proj.lora_B.weight", {64, 4});
         },
         {"qkv_proj", "q_proj, k_proj, v_proj", "tiny"}},
        {"LoftQ's conversion", "lora", key("init_lora_weights", "loftq"), {"init_lora_weights", "get_base_model()"}},
        {"target parameters", "lora", key("target_parameters", {"x"}), {"target_parameters"}},
        {"PiSSA", "lora", key("init_lora_weights", "pissa_niter_4"), {"init_lora_weights", "pissa_niter_4", "convert"}},
        {"OLoRA", "lora", key("init_lora_weights", "olora"), {"init_lora_weights", "olora", "convert"}},
        {"CorDA", "lora", key("init_lora_weights", "corda"), {"init_lora_weights", "corda", "convert"}},
        {"LoftQ", "lora", key("init_lora_weights", "loftq"), {"init_lora_weights", "loftq", "convert"}},
        {"unknown init", "lora", key("init_lora_weights", "magic"), {"init_lora_weights", "magic"}},
        {"aLoRA", "lora", key("alora_invocation_tokens", {1}), {"alora_invocation_tokens", "not supported"}},
        {"unknown key", "lora", key("use_magic", true), {"use_magic", "not known"}},
        {"megatron", "lora", key("megatron_config", {{"a", 1}}), {"megatron_config"}},
        {"arrow", "lora", key("arrow_config", {{"top_k", 1}}), {"arrow_config"}},
        {"QALoRA", "lora", key("use_qalora", true), {"use_qalora"}},
        {"layer replication", "lora", key("layer_replication", {{0, 1}}), {"layer_replication"}},
        {"lora_bias with DoRA",
         "lora",
         [](PeftFiles& f) {
             f.config["lora_bias"] = true;
             f.config["use_dora"] = true;
         },
         {"lora_bias", "use_dora"}},
        {"bias mode of another tuner", "lora", key("bias", "boft_only"), {"bias", "boft_only", "lora_only"}},
        {"bias where the base has none",
         "lora",
         [](PeftFiles& f) {
             f.config["bias"] = "all";
             f.add("model.layers.0.self_attn.o_proj.bias", {48});
         },
         {"o_proj", "a bias", "none"}},
        {"adapted head of another vocabulary",
         "lora",
         [](PeftFiles& f) {
             f.config["target_modules"] = {"q_proj", "lm_head"};
             f.add("lm_head.lora_A.weight", {4, 48});
             f.add("lm_head.lora_B.weight", {52, 4});
         },
         {"lm_head", "48 inputs and 52 outputs", "48 inputs and 50 outputs", "tiny"}},
        {"linear parts of an embedding",
         "lora",
         [](PeftFiles& f) {
             f.add("model.embed_tokens.lora_A.weight", {4, 48});
         },
         {"model.embed_tokens", "lm_head"}},
        {"half an adapted embedding",
         "lora",
         [](PeftFiles& f) {
             f.add("model.embed_tokens.lora_embedding_A", {4, 50});
         },
         {"model.embed_tokens", "no lora_embedding_B"}},
        {"adapted embedding of another vocabulary",
         "lora",
         [](PeftFiles& f) {
             f.config["target_modules"] = {"q_proj", "embed_tokens"};
             f.add("model.embed_tokens.lora_embedding_A", {4, 52});
             f.add("model.embed_tokens.lora_embedding_B", {48, 4});
         },
         {"lora_embedding_A", "52 inputs", "50 inputs and 48 outputs"}},
        {"trained token rows without their ids",
         "lora",
         [](PeftFiles& f) {
             f.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
         },
         {"trained tokens", "trainable_token_indices"}},
        {"resized embedding",
         "lora",
         [](PeftFiles& f) {
             f.add("model.embed_tokens.weight", {52, 48});
         },
         {"embed_tokens", "[52, 48]", "resized vocabularies"}},
        // BOFT's own
        {"BOFT both sizes",
         "boft",
         key("boft_block_num", 6),
         {"boft_block_size", "8 with boft_block_num 6", "exactly one"}},
        {"BOFT no size", "boft", key("boft_block_size", 0), {"boft_block_size", "0 with boft_block_num 0"}},
        {"BOFT other block", "boft", key("boft_block_size", 16), {"boft_R", "blocks of 8", "16 (boft_block_size"}},
        {"BOFT other number",
         "boft",
         [](PeftFiles& f) {
             f.config["boft_block_size"] = 0;
             f.config["boft_block_num"] = 12;
         },
         {"boft_R", "6 blocks", "12 (boft_block_num"}},
        {"BOFT more factors than said",
         "boft",
         key("boft_n_butterfly_factor", 1),
         {"boft_R", "2 factors", "1 (boft_n_butterfly_factor"}},
        {"BOFT factors huge", "boft", key("boft_n_butterfly_factor", 1000), {"boft_n_butterfly_factor", "1000"}},
        {"BOFT odd block in a chain",
         "boft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".boft_R") = {{2, 16, 3, 3}, normals(288, 1, 1)};
         },
         {"boft_R", "[2, 16, 3, 3]", "even b"}},
        {"BOFT odd number of blocks in a chain",
         "boft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".boft_R") = {{2, 3, 16, 16}, normals(1536, 1, 1)};
         },
         {"boft_R", "[2, 3, 16, 16]"}},
        {"BOFT not square",
         "boft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".boft_R").shape = {2, 6, 4, 16};
         },
         {"boft_R", "[2, 6, 4, 16]"}},
        {"BOFT convolution",
         "boft",
         [](PeftFiles& f) {
             f.at(kQ0 + ".boft_s").shape = {1, 32};
         },
         {"boft_s", "[1, 32]", "[out, 1]"}},
    };
}

void make_good(PeftFiles& files, const std::string& kind) {
    if (kind == "lora") make_lora(files, 4, {Projection::q});
    if (kind == "boft") make_boft(files, 8, 2, {Projection::q});
    if (kind == "oft") make_oft(files, 8, {Projection::q});
}

}  // namespace

class BadInputTest : public QObject {
    Q_OBJECT
private slots:
    void refused_in_words_data() {
        QTest::addColumn<int>("index");
        const auto cases = bad_cases();
        for (size_t i = 0; i < cases.size(); ++i) QTest::newRow(cases[i].title) << int(i);
    }
    void refused_in_words() {
        QFETCH(int, index);
        const BadCase bad = bad_cases()[size_t(index)];
        PeftFiles files;
        make_good(files, bad.kind);
        const Model model = tiny_model();
        QVERIFY(files.write_and_load(model));
        bad.spoil(files);
        files.write();
        if (std::string(bad.title) == "alpha NaN") {
            std::string text = files.config.dump();
            text.replace(text.find("\"lora_alpha\":16"), 15, "\"lora_alpha\":NaN");
            write_raw(files.config_path(), text);
        }
        const auto loaded = files.load(model);
        QVERIFY(!loaded);
        const std::string message = loaded.error().message();
        for (const char* word : bad.words)
            QVERIFY2(message.find(word) != std::string::npos,
                     ("'" + std::string(word) + "' is missing in: " + message).c_str());
        QVERIFY2(message.find(files.dir()) != std::string::npos, message.c_str());  // names the file
        QVERIFY(message.find('\n') == std::string::npos);
        QVERIFY(!loaded.error().expected.empty());
        (void)inspect_adapter(files.dir());
    }

    void unknown_keys_that_say_nothing_pass() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        const Model model = tiny_model();
        const auto refusal = [&] {
            const auto loaded = files.write_and_load(model);
            return loaded ? std::string() : loaded.error().message();
        };
        const std::vector<Json> values = {nullptr, false, "", Json::array(), Json::object()};
        for (const Json& value : values) {
            files.config["key_of_a_later_release"] = value;
            QCOMPARE(refusal(), std::string());
        }
        for (const char* pattern : {".*\\.(a+)+$", "all-linear", "(x+x+)+y"}) {
            files.config["target_modules"] = pattern;  // never run
            QCOMPARE(refusal(), std::string());
        }
        files.config["target_modules"] = nullptr;
        QCOMPARE(refusal(), std::string());
    }

    // Every kind that PEFT 0.21 has and this program has not, by name.
    void other_kinds() {
        for (const char* kind : {"PROMPT_TUNING",
                                 "MULTITASK_PROMPT_TUNING",
                                 "P_TUNING",
                                 "PREFIX_TUNING",
                                 "ADALORA",
                                 "ADAMSS",
                                 "ADAPTION_PROMPT",
                                 "IA3",
                                 "BEFT",
                                 "LILY",
                                 "LOHA",
                                 "LOKR",
                                 "POLY",
                                 "LN_TUNING",
                                 "VERA",
                                 "FROD",
                                 "PVERA",
                                 "FOURIERFT",
                                 "GLORA",
                                 "XLORA",
                                 "HRA",
                                 "VBLORA",
                                 "UNILORA",
                                 "CPT",
                                 "MISS",
                                 "RANDLORA",
                                 "ROAD",
                                 "TRAINABLE_TOKENS",
                                 "HIRA",
                                 "SHIRA",
                                 "C3A",
                                 "WAVEFT",
                                 "OSF",
                                 "DELORA",
                                 "GRALORA",
                                 "CARTRIDGE",
                                 "TINYLORA",
                                 "PSOFT",
                                 "PEANUT",
                                 "SHADOW",
                                 "SUPERTUNING",
                                 "DEFT"}) {
            PeftFiles files;
            make_lora(files, 4, {Projection::q});
            files.config["peft_type"] = kind;
            const auto loaded = files.write_and_load(tiny_model());
            QVERIFY2(!loaded, kind);
            const std::string message = loaded.error().message();
            for (const std::string word :
                 {"adapter_config.json", "peft_type", kind, "LORA, BOFT, OFT", "merge_and_unload"})
                QVERIFY2(message.find(word) != std::string::npos, message.c_str());
            QVERIFY2(message.find('\n') == std::string::npos && message.size() < 400, message.c_str());
        }
    }

    // A55
    void pickles_are_never_opened() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.write();
        QFile::rename(QString::fromStdString(files.tensors_path()),
                      QString::fromStdString(files.dir() + "/adapter_model.bin"));
        const auto loaded = files.load(tiny_model());
        QVERIFY(!loaded);
        QVERIFY(loaded.error().message().find("never opened") != std::string::npos);
        QVERIFY(loaded.error().message().find("safe_serialization=True") != std::string::npos);
    }

    void folders_that_are_none() {
        const Model model = tiny_model();
        QTemporaryDir dir;
        const std::string path = dir.path().toStdString();
        Progress progress;
        const auto message_of = [&](const std::string& where) {
            const auto loaded = load_adapter("a", where, model, progress);
            return loaded ? std::string() : loaded.error().message();
        };
        QVERIFY(message_of(path).find("adapter_config.json") != std::string::npos);
        QVERIFY(message_of(path + "/none").find("no such folder") != std::string::npos);
        write_raw(path + "/adapter_config.json", "{\"peft_type\": \"LORA\"}");
        QVERIFY(message_of(path).find("adapter_model.safetensors") != std::string::npos);
        QVERIFY(message_of(path + "/adapter_config.json").find("a file") != std::string::npos);
        for (const char* text : {"", "{", "[]", "{\"r\": 1, \"r\": 2}", "\xff"}) {
            write_raw(path + "/adapter_config.json", text);
            write_raw(path + "/adapter_model.safetensors", "");
            QVERIFY(message_of(path).find("adapter_config.json") != std::string::npos);
        }
    }

    // A56
    void names() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.write();
        const Model model = tiny_model();
        for (const std::string& bad :
             {std::string("../../x"), std::string(), std::string("a\0b", 3), std::string(10240, 'a'),
              std::string("a\xe2\x80\xae"
                          "b"),
              std::string("a b"), std::string(65, 'a'), std::string("ü")}) {
            const auto loaded = files.load(model, bad);
            QVERIFY(!loaded);
            QVERIFY(loaded.error().message().find("1 to 64") != std::string::npos);
            QVERIFY(loaded.error().message().size() < 1000);
        }
        QVERIFY(files.load(model, "Az09._-"));
        QVERIFY(files.load(model, std::string(64, 'a')));
    }

    // Damaged files: refused or loaded, never a crash. Every run tries the same damage.
    void mutated_files() {
        const Model model = tiny_model();
        std::mt19937 random(1);
        for (const char* kind : {"lora", "boft", "oft"}) {
            PeftFiles files;
            make_good(files, kind);
            files.write();
            const auto tensors = read_text_file(files.tensors_path()), config = read_text_file(files.config_path());
            QVERIFY(tensors && config);
            for (int round = 0; round < 200; ++round) {
                std::string bytes = round % 2 ? *tensors : *config;
                // Damage past the header of the tensors only changes numbers; most of it goes into the text.
                const size_t reach = round % 2 ? std::min<size_t>(bytes.size(), 1200) : bytes.size();
                for (unsigned n = random() % 4 + 1; n > 0; --n) {
                    const size_t at = random() % std::min(reach, bytes.size());
                    switch (random() % 4) {
                        case 0:
                            bytes[at] = char(random());
                            break;
                        case 1:
                            bytes[at] = "0123456789-{}[]\",:"[random() % 18];
                            break;
                        case 2:
                            bytes.erase(at, random() % 8);
                            break;
                        default:
                            bytes.insert(at, bytes.substr(random() % std::min(reach, bytes.size()), random() % 16));
                            break;
                    }
                    if (bytes.size() < 16) break;
                }
                write_raw(files.tensors_path(), round % 2 ? bytes : *tensors);
                write_raw(files.config_path(), round % 2 ? *config : bytes);
                const auto loaded = files.load(model);
                if (!loaded) QVERIFY(!loaded.error().message().empty());
                (void)inspect_adapter(files.dir());
            }
            for (size_t size = 0; size < tensors->size(); size += 97) {
                write_raw(files.tensors_path(), tensors->substr(0, size));
                write_raw(files.config_path(), *config);
                QVERIFY(!files.load(model));
            }
        }
    }
};

QTEST_GUILESS_MAIN(BadInputTest)
#include "bad_input_test.moc"
