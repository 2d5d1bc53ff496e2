#include "core/model/config.h"

#include "core/model/hf_config.h"
#include "model_files.h"

#include <QTest>
#include <cmath>

using namespace spartan;
using namespace spartan::test;

namespace {

using Change = std::function<void(Json&)>;

Result<ModelConfig> read(const Json& json) {
    std::vector<std::string> warnings;
    return read_hf_config(json, "config.json", warnings);
}

}  // namespace

Q_DECLARE_METATYPE(Change)

class ConfigTest : public QObject {
    Q_OBJECT

private slots:
    void refuses_data() {
        QTest::addColumn<Change>("change");
        QTest::addColumn<QByteArray>("says");
        const auto set = [](const char* key, const Json& value, const char* says) {
            QTest::newRow((std::string(key) + " " + value.dump()).c_str())
                << Change([=](Json& j) { j[key] = value; }) << QByteArray(says);
        };
        const auto drop = [](const char* key, const char* says) {
            QTest::newRow((std::string("no ") + key).c_str())
                << Change([=](Json& j) { j.erase(key); }) << QByteArray(says);
        };
        for (const char* key :
             {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
            drop(key, key);
            set(key, 0, key);
            set(key, -1, key);
            set(key, "4096", R"(found "4096" (string))");
            set(key, nullptr, "found null");
            set(key, {4096}, "found […] (array)");
            set(key, 1e308, "found 1e+308");
            set(key, int64_t(1) << 31, "2147483648");
        }
        set("num_hidden_layers", 1'000'000'000, "expected an integer from 1 to 4096");
        set("num_key_value_heads", 3, "num_key_value_heads: found 3, expected a divisor of num_attention_heads 2");
        set("num_key_value_heads", 4, "num_key_value_heads: found 4, expected a divisor");
        set("num_key_value_heads", 0, "num_key_value_heads");
        set("head_dim", 5, "head_dim: found 5, expected an even number");
        set("head_dim", -2, "head_dim");
        set("max_position_embeddings", int64_t(1) << 60, "max_position_embeddings: found 1152921504606846976");
        set("rms_norm_eps", -1, "rms_norm_eps");
        set("rms_norm_eps", "x", "rms_norm_eps");
        set("rope_theta", 0, "rope_theta: found 0");
        set("rope_theta", "1e4", "rope_theta");
        set("hidden_act", "relu", "hidden_act: found \"relu\", expected silu, gelu or gelu_pytorch_tanh");
        const char* const architectures =
            "expected LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GemmaForCausalLM, "
            "Phi3ForCausalLM, GraniteForCausalLM or SmolLM3ForCausalLM";
        set("architectures", {"Gemma2ForCausalLM"}, architectures);
        set("architectures", {"FooForCausalLM"}, architectures);
        set("architectures", {"MistralForCausalLM"}, "model_type: found \"llama\", expected the one of Mistral");
        set("architectures", "LlamaForCausalLM", "architectures");
        set("architectures", {"Qwen2ForCausalLM"}, "model_type: found \"llama\"");
        set("model_type", "mistral", "model_type: found \"mistral\", expected the one of LlamaForCausalLM");
        set("model_type", "gemma3",
            "model_type: found \"gemma3\", expected llama, mistral, qwen2, qwen3, gemma, phi3, granite or smollm3");
        set("quantization_config", {{"quant_method", "gptq"}}, "quantization_config");
        set("sliding_window", 16, "sliding_window: found 16");
        set("layer_types", {"full_attention", "sliding_attention"}, "layer_types");
        set("attention_bias", "yes", "attention_bias: found \"yes\" (string), expected true or false");
        set("mlp_bias", 1, "mlp_bias");
        set("tie_word_embeddings", nullptr, "tie_word_embeddings");
        set("partial_rotary_factor", 0.5, "partial_rotary_factor");
        set("num_local_experts", 8, "num_local_experts");
        set("final_logit_softcapping", 30.0, "final_logit_softcapping");
        set("peft_type", "LORA", "peft_type");
        set("eos_token_id", "2", "eos_token_id");
        set("eos_token_id", {2, 1.5}, "eos_token_id");
        set("rope_scaling", {{"type", "linear"}}, "rope_scaling.factor: found nothing");
        set("rope_scaling", {{"type", "linear"}, {"factor", 0}}, "rope_scaling.factor: found 0");
        set("rope_scaling", {{"type", "linear"}, {"factor", 2}, {"surprise", 1}},
            "rope_scaling.surprise: found an unknown key");
        set("rope_scaling", {{"rope_type", "spiral"}, {"factor", 2}}, "rope_scaling.rope_type: found \"spiral\"");
        set("rope_scaling", "linear", "rope_scaling: found \"linear\" (string), expected an object");
        set("rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}, "rope_scaling.low_freq_factor: found nothing");
        set("rope_scaling",
            {{"rope_type", "llama3"},
             {"factor", 8.0},
             {"low_freq_factor", 4.0},
             {"high_freq_factor", 4.0},
             {"original_max_position_embeddings", 64}},
            "rope_scaling.high_freq_factor");
        set("rope_parameters", {{"rope_type", "default"}, {"rope_theta", -1}}, "rope_parameters.rope_theta");
        QTest::newRow("indivisible hidden size")
            << Change([](Json& j) { j.erase("head_dim"), j["hidden_size"] = 9; })
            << QByteArray("num_attention_heads: found 2, expected a divisor of hidden_size 9");
        QTest::newRow("no architecture") << Change([](Json& j) { j.erase("architectures"), j.erase("model_type"); })
                                         << QByteArray("architectures: found nothing");
        const auto of = [](const char* kind, const char* name, const Json& changes, const char* says) {
            QTest::newRow((std::string(kind) + " " + name).c_str()) << Change([=](Json& j) {
                j.erase("architectures"), j["model_type"] = kind;
                j.update(changes);
            }) << QByteArray(says);
        };
        of("qwen2", "window unused", {{"layer_types", {"full_attention", "sliding_attention"}}},
           "layer_types: found sliding_attention, expected use_sliding_window true");
        of("qwen2", "layer type", {{"layer_types", {"full_attention", "chunked_attention"}}},
           "layer_types: found \"chunked_attention\"");
        of("qwen3", "layer types short", {{"layer_types", {"full_attention"}}}, "layer_types: found");
        of("qwen2", "output bias", {{"attention_bias", true}}, "attention_bias: found true, expected false: a qwen2");
        of("mistral", "mixed layers",
           {{"sliding_window", 16}, {"layer_types", {"full_attention", "sliding_attention"}}},
           "layer_types: found full_attention");
        of("mistral", "window 0", {{"sliding_window", 0}}, "sliding_window: found 0");
        of("mistral", "partial rotary", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor: found 0.5");
        of("granite", "multiplier", {{"residual_multiplier", "x"}}, "residual_multiplier");
        of("granite", "multiplier 0", {{"logits_scaling", 0}}, "logits_scaling: found 0");
        of("llama", "multiplier", {{"residual_multiplier", 0.5}}, "residual_multiplier: found 0.5");
        of("smollm3", "no_rope_layers short", {{"no_rope_layers", {1}}}, "no_rope_layers: found");
        of("smollm3", "no_rope_layers 2", {{"no_rope_layers", {1, 2}}}, "no_rope_layers: found 2, expected 0 or 1");
        of("smollm3", "interval 0", {{"no_rope_layer_interval", 0}}, "no_rope_layer_interval: found 0");
        of("llama", "no_rope_layers", {{"no_rope_layers", {1, 0}}}, "no_rope_layers");
        of("gemma", "both ways", {{"use_bidirectional_attention", true}}, "use_bidirectional_attention: found true");
        of("phi3", "odd rotary", {{"partial_rotary_factor", 0.25}}, "partial_rotary_factor: found 0.25");
        of("phi3", "longrope", {{"rope_scaling", {{"type", "longrope"}, {"short_factor", {1.0, 1.0}}}}},
           "rope_scaling.type: found \"longrope\" (string), expected default");
        of("llama", "longrope", {{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}},
           "rope_scaling.type: found \"longrope\" (string), expected one of default, linear, dynamic, llama3, yarn");
        of("llama", "yarn key", {{"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}, {"low_freq_factor", 1.0}}}},
           "rope_scaling.low_freq_factor: found an unknown key");
        of("llama", "yarn betas", {{"rope_scaling", {{"type", "yarn"}, {"beta_fast", 1.0}, {"beta_slow", 2.0}}}},
           "rope_scaling.beta_fast");
        QTest::newRow("two ropes") << Change([](Json& j) {
            j["rope_scaling"] = {{"type", "linear"}, {"factor", 2}}, j["rope_parameters"] = {{"rope_type", "default"}};
        }) << QByteArray("rope_scaling: found a value that differs");
    }
    void refuses() {
        QFETCH(Change, change);
        QFETCH(QByteArray, says);
        Json json = tiny_config_json();
        change(json);
        const auto config = read(json);
        QVERIFY(!config);
        VERIFY_CONTAINS(config.error().message(), "config.json: ");
        VERIFY_CONTAINS(config.error().message(), says.toStdString());
    }

    void refuses_what_is_no_object() {
        for (const Json& json : {Json::array(), Json(1), Json()}) QVERIFY(!read(json));
    }

    void reads_sizes() {
        const auto c = read(tiny_config_json());
        VERIFY_OK(c);
        QCOMPARE(c->kind, std::string("llama"));
        QCOMPARE(c->vocab_size, 10);
        QCOMPARE(c->num_kv_heads, 1);
        QCOMPARE(c->q_size(), 8);
        QCOMPARE(c->kv_size(), 4);
        QCOMPARE(c->rms_norm_eps, 1e-5f);
        QCOMPARE(c->eos, std::vector<Token>{2});
        QCOMPARE(c->bos, 1);
        QCOMPARE(in_features(*c, Projection::down), 12);
        QCOMPARE(out_features(*c, Projection::down), 8);
        QCOMPARE(in_features(*c, Projection::o), 8);
        QCOMPARE(out_features(*c, Projection::v), 4);
        QCOMPARE(out_features(*c, Projection::gate), 12);
    }

    void defaults_and_harmless_keys() {
        Json j = tiny_config_json();
        for (const char* key :
             {"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
              "tie_word_embeddings", "eos_token_id", "bos_token_id", "hidden_act", "model_type"})
            j.erase(key);
        j["anything"] = {{"else", 1}};
        j["pretraining_tp"] = 2;
        j["sliding_window"] = nullptr;
        j["rope_scaling"] = nullptr;
        j["quantization_config"] = nullptr;
        j["num_local_experts"] = 0;
        const auto c = read(j);
        VERIFY_OK(c);
        QCOMPARE(c->num_kv_heads, 2);
        QCOMPARE(c->head_dim, 4);
        QCOMPARE(c->max_position, 2048);
        QCOMPARE(c->rms_norm_eps, 1e-6f);
        QCOMPARE(c->rope.theta, 1e4);
        QVERIFY(!c->tied_embeddings && c->eos.empty() && c->bos == -1);
        Json null_keys = tiny_config_json();
        null_keys["head_dim"] = null_keys["num_key_value_heads"] = nullptr;
        QCOMPARE(read(null_keys)->num_kv_heads, 2);
    }

    void qwen2() {
        Json j = tiny_config_json();
        j["architectures"] = {"Qwen2ForCausalLM"}, j["model_type"] = "qwen2";
        j["use_sliding_window"] = false, j["sliding_window"] = 16, j["max_window_layers"] = 1;
        const auto c = read(j);
        VERIFY_OK(c);
        QVERIFY(c->qkv_bias && !c->o_bias && !c->mlp_bias);
        QVERIFY(c->windows.empty());
        j["use_sliding_window"] = true, j["max_window_layers"] = 2;  // no layer has it
        VERIFY_OK(read(j));
        QVERIFY(read(j)->windows.empty());
        j["max_window_layers"] = 1;
        QCOMPARE(read(j)->windows, (std::vector<int64_t>{0, 16}));
        j["layer_types"] = {"sliding_attention", "full_attention"};  // goes before
        QCOMPARE(read(j)->windows, (std::vector<int64_t>{16, 0}));
        j["sliding_window"] = 64;  // as wide as any context
        QVERIFY(read(j)->windows.empty());
    }

    // What an absent key means differs by family.
    void defaults_of_families() {
        const auto of = [](const char* kind, const std::vector<const char*>& absent, const Json& changes = {}) {
            Json j = tiny_config_json();
            j.erase("architectures"), j["model_type"] = kind;
            for (const char* key : absent) j.erase(key);
            if (changes.is_object()) j.update(changes);
            const auto c = read(j);
            return c ? *c : (qWarning("%s", c.error().message().c_str()), ModelConfig());
        };
        const auto mistral = of("mistral", {"max_position_embeddings"});
        QCOMPARE(mistral.max_position, 131072);
        QCOMPARE(mistral.windows, (std::vector<int64_t>{4096, 4096}));
        QVERIFY(of("mistral", {}, {{"sliding_window", nullptr}}).windows.empty());
        QCOMPARE(of("qwen3", {"head_dim"}).head_dim, 128);
        QVERIFY(of("qwen3", {}).qk_norm);
        const auto gemma = of("gemma", {"head_dim", "tie_word_embeddings", "hidden_act"});
        QVERIFY(gemma.head_dim == 256 && gemma.tied_embeddings && gemma.norm_adds_one);
        QCOMPARE(gemma.gate_function, GateFunction::gelu_tanh);
        QCOMPARE(gemma.embedding_multiplier, std::sqrt(8.f));
        const auto phi3 = of("phi3", {"rms_norm_eps"});
        QVERIFY(phi3.fused_projections && phi3.windows.empty() && phi3.rms_norm_eps == 1e-5f);
        QCOMPARE(of("phi3", {}, {{"partial_rotary_factor", 0.5}}).rotary_size(), 2);
        const auto granite = of("granite", {});
        QCOMPARE(granite.score_scale(), 1.f);
        const auto smollm3 = of("smollm3", {"rope_theta", "tie_word_embeddings"}, {{"no_rope_layer_interval", 2}});
        QVERIFY(smollm3.tied_embeddings && smollm3.rope.theta == 2e6);
        QVERIFY(smollm3.rotates(0) && !smollm3.rotates(1));
        QCOMPARE(of("smollm3", {}, {{"no_rope_layers", {0, 1, 1}}}).rope_layers, (std::vector<uint8_t>{0, 1}));
    }

    void rope_yarn() {
        Json j = tiny_config_json();
        j["head_dim"] = 64;
        j["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}};
        const auto c = read(j);
        VERIFY_OK(c);
        QVERIFY(std::abs(c->rope.attention_factor - (0.1 * std::log(4.) + 1)) < 1e-12);
        const auto inv = rope_inv_freq(*c);
        QCOMPARE(inv.front(), 1.f);                                           // turns often: kept
        QVERIFY(std::abs(inv.back() - std::pow(1e4, -62. / 64) / 4) < 1e-8);  // turns less than once: stretched
        j["original_max_position_embeddings"] = 16;                           // goes before the object's own
        QCOMPARE(read(j)->rope.original_max_position, 16);
        j["rope_scaling"] = {{"type", "yarn"}};  // factor from the lengths
        QCOMPARE(read(j)->rope.factor, 4.);
        j["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}, {"mscale_all_dim", 0.7}};
        QCOMPARE(read(j)->rope.attention_factor, 1.);
        j["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.5}};
        QCOMPARE(read(j)->rope.attention_factor, 1.5);
    }

    // Said where it has no effect, and where versions of transformers differ.
    void warnings_of_switches() {
        const auto warned = [](const Json& changes) {
            Json j = tiny_config_json();
            j.erase("architectures");
            j.update(changes);
            std::vector<std::string> warnings;
            const auto c = read_hf_config(j, "config.json", warnings);
            return c && warnings.size() == 1 ? warnings[0] : std::string();
        };
        VERIFY_CONTAINS(warned({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}), "factor has no effect");
        VERIFY_CONTAINS(warned({{"model_type", "gemma"}, {"hidden_act", "gelu"}}), "hidden_act is gelu");
        VERIFY_CONTAINS(
            warned({{"model_type", "gemma"}, {"hidden_act", "gelu_pytorch_tanh"}, {"hidden_activation", "gelu"}}),
            "hidden_activation gelu is not used");
        VERIFY_CONTAINS(warned({{"auto_map", {{"AutoModelForCausalLM", "modeling_evil.EvilForCausalLM"}}}}),
                        "the code that auto_map names is not run");
    }

    void biases_of_llama() {
        Json j = tiny_config_json();
        j["attention_bias"] = true, j["mlp_bias"] = true;
        const auto c = read(j);
        QVERIFY(c->qkv_bias && c->o_bias && c->mlp_bias);
    }

    void end_tokens() {
        std::vector<std::string> warnings;
        Json j = tiny_config_json();
        j["eos_token_id"] = {2, 3, 99};
        auto c = read_hf_config(j, "config.json", warnings);
        VERIFY_OK(c);
        QCOMPARE(c->eos, (std::vector<Token>{2, 3}));
        QCOMPARE(warnings.size(), size_t(1));
        VERIFY_OK(apply_generation_config({{"eos_token_id", {4, 5}}}, "generation_config.json", *c, warnings));
        QCOMPARE(c->eos, (std::vector<Token>{4, 5}));
        VERIFY_OK(apply_generation_config({{"temperature", 0.6}}, "generation_config.json", *c, warnings));
        QCOMPARE(c->eos, (std::vector<Token>{4, 5}));
        QVERIFY(!apply_generation_config({{"eos_token_id", "x"}}, "generation_config.json", *c, warnings));
        QVERIFY(!apply_generation_config(Json::array(), "generation_config.json", *c, warnings));
    }

    void rope_default_and_linear() {
        ModelConfig c = tiny_config();
        c.head_dim = 8;
        c.rope.theta = 10000;
        const auto inv = rope_inv_freq(c);
        QCOMPARE(inv.size(), size_t(4));
        const float expected[] = {1.f, 0.1f, 0.01f, 0.001f};
        for (size_t i = 0; i < 4; ++i) QVERIFY(std::abs(inv[i] - expected[i]) <= 1e-7f * expected[i]);
        c.rope.type = "linear", c.rope.factor = 4;
        QCOMPARE(rope_inv_freq(c)[0], 0.25f);
        c.rope.type = "default", c.rope.divisors = {1, 2, 4, 8};
        QVERIFY(std::abs(rope_inv_freq(c)[3] - 0.001f / 8) < 1e-9f);
    }

    // Against the formula in double: long waves divided by the factor, short ones kept, blended between.
    void rope_llama3() {
        Json j = tiny_config_json();
        j.erase("rope_theta");
        j["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 500000.0},
                                {"factor", 8.0},           {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
        auto c = read(j);
        VERIFY_OK(c);
        c->head_dim = 128;
        const auto inv = rope_inv_freq(*c);
        int kept = 0, divided = 0, blended = 0;
        for (size_t i = 0; i < 64; ++i) {
            const double f = std::pow(500000.0, -2.0 * double(i) / 128), wave = 2 * M_PI / f;
            const double t = (8192 / wave - 1) / 3;
            const double expected = t >= 1 ? f : t <= 0 ? f / 8 : (1 - t) * f / 8 + t * f;
            ++(t >= 1 ? kept : t <= 0 ? divided : blended);
            QVERIFY(std::abs(inv[i] - expected) <= 2e-6 * expected);
        }
        QVERIFY(kept > 0 && divided > 0 && blended > 0);
    }

    // The two spellings of transformers 4 and 5 mean the same.
    void rope_spellings() {
        Json v4 = tiny_config_json(), v5 = tiny_config_json();
        v4["rope_theta"] = 500.0, v4["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
        v5.erase("rope_theta");
        v5["rope_parameters"] = {{"rope_type", "linear"}, {"rope_theta", 500.0}, {"factor", 2.0}};
        QCOMPARE(rope_inv_freq(*read(v4)), rope_inv_freq(*read(v5)));
    }

    void mutations_never_crash() {
        const std::string good = tiny_config_json().dump();
        std::mt19937 random(7);
        for (int i = 0; i < 5000; ++i) {
            std::string text = good;
            for (auto k = 1 + random() % 3; k > 0; --k) text[random() % text.size()] = char(32 + random() % 95);
            const auto json = parse_json(text, "config.json");
            if (!json) continue;
            const auto c = read(*json);
            if (!c)
                QVERIFY(!c.error().message().empty());
            else
                QVERIFY(c->num_heads % c->num_kv_heads == 0 && c->head_dim % 2 == 0);
        }
    }
};

QTEST_GUILESS_MAIN(ConfigTest)
#include "config_test.moc"
