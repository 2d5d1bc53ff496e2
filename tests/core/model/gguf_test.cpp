#include "core/model/gguf.h"

#include "core/model/model.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "model_files.h"

#include <QElapsedTimer>
#include <QTemporaryDir>
#include <QTest>
#include <cmath>

using namespace spartan;
using namespace spartan::test;

using Change = std::function<void(GgufBuilder&)>;
Q_DECLARE_METATYPE(Change)

class GgufTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;
    std::string path() const { return dir_.filePath("Tiny-Q.f32.gguf").toStdString(); }
    Result<OpenedModel> open(const GgufBuilder& g) const {
        put(path(), g.bytes());
        return open_model(path());
    }
    // Rows of a tensor as load_model() will see them.
    static std::vector<float> values(const OpenedModel& opened, const std::string& name) {
        for (const TensorSource& t : opened.tensors)
            if (t.name == name) {
                std::vector<float> out(size_t(t.rows() * t.cols()), 0.f);
                if (!t.read_rows(0, t.rows(), out.data())) return {};
                return out;
            }
        return {};
    }

private slots:
    void refuses_data() {
        QTest::addColumn<Change>("change");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* name, Change change, const char* says) {
            QTest::newRow(name) << std::move(change) << QByteArray(says);
        };
        row(
            "magic", [](auto& g) { g.magic = "GGML"; }, "magic: found \"GGML\", expected GGUF");
        row(
            "version 1", [](auto& g) { g.version = 1; }, "version: found 1, expected 2 or 3");
        row(
            "version 4", [](auto& g) { g.version = 4; }, "version: found 4");
        row(
            "big-endian", [](auto& g) { g.version = 0x03000000; }, "version: found big-endian data");
        // reliability.md G29, G30
        row(
            "n_tensors 2^64-2", [](auto& g) { g.tensor_count = UINT64_MAX - 1; },
            "tensor count: found 18446744073709551614");
        row(
            "n_kv 2^64-2", [](auto& g) { g.pair_count = UINT64_MAX - 1; },
            "metadata count: found 18446744073709551614");
        row(
            "no tensors", [](auto& g) { g.tensors.clear(); }, "tensor count: found 0");
        row(
            "string 2^63", [](auto& g) { g.raw("general.name", 8, bytes_of(uint64_t(1) << 63)); },
            "general.name: found a string of 9223372036854775808 bytes");
        row(
            "array 2^63", [](auto& g) { g.numbers("x.a", 0, uint64_t(1) << 63, ""); },
            "x.a: found an array of 9223372036854775808");
        row(
            "string array 2^61", [](auto& g) { g.numbers("x.a", 8, uint64_t(1) << 61, ""); },
            "x.a: found an array of 2305843009213693952");
        row(
            "array of arrays", [](auto& g) { g.numbers("x.a", 9, 1, bytes_of(uint32_t(0)) + bytes_of(uint64_t(0))); },
            "x.a: found an array of arrays");
        row(
            "array type 13", [](auto& g) { g.numbers("x.a", 13, 0, ""); }, "x.a: found element type 13");
        row(
            "value type 13", [](auto& g) { g.raw("x.a", 13, ""); }, "x.a: found value type 13");
        row(
            "boolean 2", [](auto& g) { g.raw("x.b", 7, "\x02"); }, "x.b: found a boolean of 2");
        row(
            "duplicate key", [](auto& g) { g.add("llama.block_count", 4, bytes_of(1u)); },
            "llama.block_count: found the key twice");
        row(
            "empty key", [](auto& g) { g.add("", 4, bytes_of(1u)); }, "metadata key: found an empty key");
        // G31
        row(
            "5 dimensions",
            [](auto& g) {
                g.tensors[0].ne = {32, 12, 1, 1, 1};
            },
            "token_embd.weight: found 5 dimensions");
        row(
            "type -1", [](auto& g) { g.tensors[0].type = UINT32_MAX; }, "token_embd.weight: found type 4294967295");
        row(
            "IQ4_XS", [](auto& g) { g.tensors[0].type = 23; },
            "token_embd.weight: found type IQ4_XS, expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, "
            "Q4_K, Q5_K or Q6_K");
        for (const auto& [number, name] : std::vector<std::pair<uint32_t, std::string>>{{9, "Q8_1"},
                                                                                        {15, "Q8_K"},
                                                                                        {16, "IQ2_XXS"},
                                                                                        {17, "IQ2_XS"},
                                                                                        {18, "IQ3_XXS"},
                                                                                        {19, "IQ1_S"},
                                                                                        {20, "IQ4_NL"},
                                                                                        {21, "IQ3_S"},
                                                                                        {22, "IQ2_S"},
                                                                                        {29, "IQ1_M"},
                                                                                        {34, "TQ1_0"},
                                                                                        {39, "MXFP4"}})
            row(
                name.c_str(), [type = number](auto& g) { g.tensors[0].type = type; },
                ("token_embd.weight: found type " + name + ", expected F32").c_str());
        row(
            "Q4_K rows", [](auto& g) { g.tensors[0].type = 12; },
            "token_embd.weight: found rows of 32 in Q4_K, expected a multiple of 256");
        row(
            "removed type 4", [](auto& g) { g.tensors[0].type = 4; }, "found type 4");
        // G32
        row(
            "alignment 0", [](auto& g) { g.u32("general.alignment", 0); },
            "general.alignment: found 0, expected a power of two");
        row(
            "alignment 13", [](auto& g) { g.u32("general.alignment", 13); }, "general.alignment: found 13");
        row(
            "alignment 2^30", [](auto& g) { g.u32("general.alignment", 1 << 30); },
            "general.alignment: found 1073741824");
        row(
            "alignment text", [](auto& g) { g.str("general.alignment", "32"); }, "general.alignment: found a string");
        row(
            "alignment u64", [](auto& g) { g.raw("general.alignment", 10, bytes_of(uint64_t(32))); },
            "general.alignment");
        // G33, G34
        row(
            "huge tensors",
            [](auto& g) {
                g.tensors[0].ne = {0x7FFFFFFFFFFFFFC0, 1};
                g.tensors[1].ne = {0x7FFFFFFFFFFFFFC0, 1};
            },
            "token_embd.weight: found shape");
        row(
            "huge F16 tensor", [](auto& g) { g.tensors[0].type = kF16, g.tensors[0].ne = {0x3FFFFFFFFFFFFFC0}; },
            "token_embd.weight: found data up to byte");
        row(
            "quantised size wraps",
            [](auto& g) {
                g.tensors[0].type = kQ8_0, g.tensors[0].ne = {uint64_t(1) << 62, 2};
            },
            "token_embd.weight: found shape");
        row(
            "product wraps",
            [](auto& g) {
                g.tensors[0].ne = {uint64_t(1) << 32, uint64_t(1) << 32, 4};
            },
            "token_embd.weight: found shape");
        row(
            "dimension 2^63", [](auto& g) { g.tensors[0].ne = {uint64_t(1) << 63}; },
            "token_embd.weight: found dimension 9223372036854775808");
        row(
            "offset 2^63", [](auto& g) { g.tensors[1].offset = INT64_MIN; }, "blk.0.attn_norm.weight: found offset");
        row(
            "offset past the end", [](auto& g) { g.tensors.back().offset = 1 << 30; },
            "output_norm.weight: found offset 1073741824");
        row(
            "offset of another", [](auto& g) { g.tensors[1].offset = 0; },
            "blk.0.attn_norm.weight: found offset 0, expected 1536");
        row(
            "data past the end", [](auto& g) { g.tensors.back().ne = {320}; },
            "output_norm.weight: found data up to byte");
        row(
            "broken block",
            [](auto& g) {
                g.tensors[0].type = kQ4_0, g.tensors[0].ne = {33, 12};
            },
            "token_embd.weight: found rows of 33 in Q4_0, expected a multiple of 32");
        // G35
        row(
            "INT8 scores",
            [](auto& g) {
                g.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"a", "b"});
                g.numbers("tokenizer.ggml.scores", 1, 2, "xy");
            },
            "tokenizer.ggml.scores: found an array of i8, expected an array of f32");
        row(
            "too few scores",
            [](auto& g) {
                g.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"a", "b"});
                g.numbers("tokenizer.ggml.scores", 6, 1, bytes_of(1.f));
            },
            "tokenizer.ggml.scores: found 1 entries, expected 2");
        row(
            "tokens of numbers", [](auto& g) { g.numbers("tokenizer.ggml.tokens", 4, 1, bytes_of(1u)); },
            "tokenizer.ggml.tokens: found an array of u32");
        row(
            "too many tokens", [](auto& g) { g.strings("tokenizer.ggml.tokens", std::vector<std::string>(13, "x")); },
            "tokenizer.ggml.tokens: found 13 tokens");
        row(
            "duplicate tensor", [](auto& g) { g.tensors.push_back(g.tensors[1]); },
            "blk.0.attn_norm.weight: found the tensor twice");
        row(
            "64 char name", [](auto& g) { g.tensors[0].name = std::string(64, 'n'); },
            "tensor name: found a string of 64 bytes, expected at most 63");
        row(
            "block_count 0", [](auto& g) { g.u32("llama.block_count", 0); }, "llama.block_count: found 0");
        row(
            "block_count 10^9", [](auto& g) { g.u32("llama.block_count", 1'000'000'000); },
            "llama.block_count: found 1000000000");
        // What the sizes must be.
        row(
            "architecture", [](auto& g) { g.str("general.architecture", "gemma2"); },
            "general.architecture: found \"gemma2\", expected llama, qwen2, qwen3, gemma or phi3");
        row(
            "keys of another architecture", [](auto& g) { g.str("general.architecture", "qwen3"); },
            "qwen3.context_length: found no such key");
        row(
            "longrope",
            [](auto& g) {
                g.tensors.push_back({"rope_factors_long.weight", {8}, 0, std::string(32, 0)});
            },
            "rope_factors_long.weight: found longrope");
        row(
            "window", [](auto& g) { g.u32("llama.attention.sliding_window", 16); },
            "llama.attention.sliding_window: found another value, expected full attention");
        row(
            "no architecture", [](auto& g) { g.remove("general.architecture"); },
            "general.architecture: found no such key");
        row(
            "no context", [](auto& g) { g.remove("llama.context_length"); }, "llama.context_length: found no such key");
        row(
            "context 0", [](auto& g) { g.u32("llama.context_length", 0); }, "llama.context_length: found 0");
        row(
            "hidden as text", [](auto& g) { g.str("llama.embedding_length", "32"); },
            "llama.embedding_length: found a value of type string");
        row(
            "hidden negative", [](auto& g) { g.raw("llama.embedding_length", 5, bytes_of(int32_t(-32))); },
            "llama.embedding_length: found -32");
        row(
            "heads 0", [](auto& g) { g.u32("llama.attention.head_count", 0); }, "llama.attention.head_count: found 0");
        row(
            "heads 3", [](auto& g) { g.u32("llama.attention.head_count", 3); },
            "llama.attention.head_count: found 3, expected a divisor");
        row(
            "heads by layer", [](auto& g) { g.numbers("llama.attention.head_count", 4, 1, bytes_of(2u)); },
            "llama.attention.head_count: found a value of type array");
        row(
            "kv heads 3", [](auto& g) { g.u32("llama.attention.head_count_kv", 3); },
            "llama.attention.head_count_kv: found 3");
        row(
            "eps NaN", [](auto& g) { g.f32("llama.attention.layer_norm_rms_epsilon", NAN); },
            "layer_norm_rms_epsilon: found NaN");
        row(
            "theta 0", [](auto& g) { g.f32("llama.rope.freq_base", 0); }, "llama.rope.freq_base: found 0");
        row(
            "partial rope", [](auto& g) { g.u32("llama.rope.dimension_count", 8); },
            "llama.rope.dimension_count: found 8, expected the head size 16");
        row(
            "rope scaling", [](auto& g) { g.str("llama.rope.scaling.type", "longrope"); },
            "llama.rope.scaling.type: found \"longrope\", expected none, linear or yarn");
        row(
            "attention factor without yarn", [](auto& g) { g.f32("llama.rope.scaling.attn_factor", 1.5f); },
            "llama.rope.scaling.attn_factor: found 1.5, expected 1 without yarn");
        row(
            "yarn without a factor", [](auto& g) { g.str("llama.rope.scaling.type", "yarn"); },
            "llama.rope.scaling.factor: found no such key");
        const auto yarn_row = [&](const char* key, float value, const char* says) {
            row(
                key,
                [key, value](auto& g) {
                    g.str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
                    g.f32(std::string("llama.rope.scaling.") + key, value);
                },
                says);
        };
        yarn_row("factor", -2, "llama.rope.scaling.factor: found -2");
        yarn_row("original_context_length", 64,
                 "llama.rope.scaling.original_context_length: found a value of type f32");
        yarn_row("attn_factor", NAN, "llama.rope.scaling.attn_factor: found NaN");
        yarn_row("yarn_beta_fast", 0.5f,
                 "llama.rope.scaling.yarn_beta_fast: found 0.5, expected at least yarn_beta_slow");
        yarn_row("yarn_beta_slow", 0, "llama.rope.scaling.yarn_beta_slow: found 0");
        yarn_row("yarn_attn_factor", -1, "llama.rope.scaling.yarn_attn_factor: found -1");
        yarn_row("yarn_ext_factor", 0.5f, "llama.rope.scaling.yarn_ext_factor: found 0.5, expected 1");
        yarn_row("yarn_log_multiplier", 0.1f,
                 "llama.rope.scaling.yarn_log_multiplier: found 0.1, expected 0: architecture");
        row(
            "value length", [](auto& g) { g.u32("llama.attention.value_length", 8); },
            "llama.attention.value_length: found 8");
        row(
            "vocab size", [](auto& g) { g.u32("llama.vocab_size", 13); },
            "llama.vocab_size: found 13, expected the rows of token_embd.weight, 12");
        row(
            "no embedding", [](auto& g) { g.tensors.erase(g.tensors.begin()); },
            "token_embd.weight: found no such tensor");
        row(
            "experts", [](auto& g) { g.u32("llama.expert_count", 8); }, "llama.expert_count");
        row(
            "split", [](auto& g) { g.raw("split.count", 2, bytes_of(uint16_t(3))); }, "split.count");
        row(
            "eos outside", [](auto& g) { g.u32("tokenizer.ggml.eos_token_id", 12); },
            "tokenizer.ggml.eos_token_id: found 12");
        row(
            "rope_freqs of 3",
            [](auto& g) {
                g.tensors.push_back({"rope_freqs.weight", {3}, kF32, std::string(12, 0)});
            },
            "rope_freqs.weight: found F32 of shape [3], expected F32 of shape [8]");
        row(
            "rope_freqs of zeros",
            [](auto& g) {
                g.tensors.push_back({"rope_freqs.weight", {8}, kF32, std::string(32, 0)});
            },
            "rope_freqs.weight[0]: found 0");
    }
    void refuses() {
        QFETCH(Change, change);
        QFETCH(QByteArray, says);
        GgufBuilder g = tiny_gguf();
        change(g);
        QElapsedTimer timer;
        timer.start();
        const auto opened = open(g);
        QVERIFY(timer.elapsed() < 1000);
        QVERIFY(!opened);
        VERIFY_CONTAINS(opened.error().message(), path() + ": ");
        VERIFY_CONTAINS(opened.error().message(), says.toStdString());
    }

    void short_files() {
        const std::string good = tiny_gguf().bytes();
        for (const size_t n : {0, 3, 4, 8, 23, 24, 100, 500}) {
            put(path(), good.substr(0, n));
            const auto opened = open_model(path());
            QVERIFY(!opened);
            VERIFY_CONTAINS(opened.error().message(), path() + ": ");
        }
        put(path(), "GGUF" + bytes_of(uint32_t(3)) + bytes_of(uint64_t(1)) + bytes_of(uint64_t(1)) +
                        bytes_of(uint64_t(1) << 63));
        VERIFY_CONTAINS(open_model(path()).error().message(), "count: found 1");
    }

    void reads_a_model() {
        GgufBuilder g = tiny_gguf();
        g.u32("tokenizer.ggml.eos_token_id", 2)
            .u32("tokenizer.ggml.eot_token_id", 3)
            .u32("tokenizer.ggml.bos_token_id", 1);
        const auto opened = open(g);
        VERIFY_OK(opened);
        const ModelConfig& c = opened->config;
        QCOMPARE(opened->problems, std::vector<std::string>{});
        QCOMPARE(opened->warnings, std::vector<std::string>{});
        QCOMPARE(opened->name, std::string("Tiny-Q"));
        QCOMPARE(opened->dtype, std::string("F32"));
        QCOMPARE(c.vocab_size, 12);
        QCOMPARE(c.head_dim, 16);
        QCOMPARE(c.num_kv_heads, 1);
        QCOMPARE(c.intermediate_size, 64);
        QCOMPARE(c.max_position, 128);
        QCOMPARE(c.rope.theta, 1e5);
        QCOMPARE(c.eos, (std::vector<Token>{2, 3}));
        QCOMPARE(c.bos, 1);
        QVERIFY(c.tied_embeddings && !opened->tokenizer);
        QVERIFY(opened->chat_template != nullptr);
        QCOMPARE(opened->parameters, 12 * 32 + 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 3 * 32);
        g.version = 2;
        VERIFY_OK(open(g));
    }

    // HF row h·hd + p·hd/2 + j lies in the file as row h·hd + 2j + p; v is not permuted.
    void rows_of_q_and_k_are_put_back() {
        GgufBuilder g = tiny_gguf();
        const auto numbered = [](int64_t rows) {
            std::vector<float> v;
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t c = 0; c < 32; ++c) v.push_back(float(r * 100 + c));
            return v;
        };
        for (const auto& [name, rows] : {std::pair("blk.0.attn_q.weight", 32), std::pair("blk.0.attn_k.weight", 16),
                                         std::pair("blk.0.attn_v.weight", 16)})
            g.tensor(name).data = bytes_of(numbered(rows));
        for (const auto& [name, n] : {std::pair("blk.0.attn_q.bias", 32), std::pair("blk.0.attn_k.bias", 16),
                                      std::pair("blk.0.attn_v.bias", 16)}) {
            std::vector<float> v;
            for (int i = 0; i < n; ++i) v.push_back(float(i));
            g.tensors.push_back({name, {uint64_t(n)}, kF32, bytes_of(v)});
        }
        const auto opened = open(g);
        VERIFY_OK(opened);
        QCOMPARE(opened->problems, std::vector<std::string>{});
        QVERIFY(opened->config.qkv_bias && !opened->config.o_bias);
        const std::string prefix = "model.layers.0.self_attn.";
        const auto q = values(*opened, prefix + "q_proj.weight"), k = values(*opened, prefix + "k_proj.weight"),
                   v = values(*opened, prefix + "v_proj.weight");
        const auto q_bias = values(*opened, prefix + "q_proj.bias"), v_bias = values(*opened, prefix + "v_proj.bias");
        for (int h = 0; h < 2; ++h)
            for (int p = 0; p < 2; ++p)
                for (int j = 0; j < 8; ++j) {
                    const int hf = h * 16 + p * 8 + j, stored = h * 16 + 2 * j + p;
                    QCOMPARE(q[size_t(hf * 32 + 5)], float(stored * 100 + 5));
                    QCOMPARE(q_bias[size_t(hf)], float(stored));
                    if (h == 0) QCOMPARE(k[size_t(hf * 32)], float(stored * 100));
                }
        QCOMPARE(v, numbered(16));
        QCOMPARE(v_bias[3], 3.f);
        // Any piece of rows is the same piece of the whole.
        for (const TensorSource& t : opened->tensors)
            if (t.name == prefix + "q_proj.weight")
                for (int64_t first = 0; first < 32; first += 5) {
                    const int64_t count = std::min<int64_t>(5, 32 - first);
                    std::vector<float> part(size_t(count * 32), 0.f);
                    QVERIFY(t.read_rows(first, count, part.data()));
                    QVERIFY(std::equal(part.begin(), part.end(), q.begin() + first * 32));
                }
    }

    void block_formats() {
        const auto half = [](uint16_t bits) { return bytes_of(bits); };
        std::string nibbles;  // byte i: low nibble i, high nibble 15 - i
        for (int i = 0; i < 16; ++i) nibbles += char(i | (15 - i) << 4);
        std::string int8;
        for (int i = 0; i < 32; ++i) int8 += char(i * 8 - 128);
        const uint16_t two = 0x4000, minus_half = 0xb800;
        struct Case {
            uint32_t type;
            std::string block;
            std::function<float(int)> expected;
        };
        const auto nibble = [](int i) { return float(i < 16 ? i : 15 - (i - 16)); };
        const Case cases[] = {
            {kQ4_0, half(two) + nibbles, [&](int i) { return 2 * (nibble(i) - 8); }},
            {kQ4_1, half(two) + half(minus_half) + nibbles, [&](int i) { return 2 * nibble(i) - 0.5f; }},
            {kQ8_0, half(two) + int8, [](int i) { return 2 * float(i * 8 - 128); }},
        };
        for (const Case& c : cases) {
            GgufBuilder g = tiny_gguf();
            auto& t = g.tensor("blk.0.ffn_down.weight");  // rows of two blocks
            t.type = c.type;
            t.data.clear();
            for (int i = 0; i < 64; ++i) t.data += c.block;
            const auto opened = open(g);
            VERIFY_OK(opened);
            QCOMPARE(opened->problems, std::vector<std::string>{});
            const auto v = values(*opened, "model.layers.0.mlp.down_proj.weight");
            QCOMPARE(v.size(), size_t(64 * 32));
            for (int i = 0; i < 64 * 32; ++i) QCOMPARE(v[size_t(i)], c.expected(i % 32));
        }
        GgufBuilder g = tiny_gguf();
        auto& f16 = g.tensor("blk.0.attn_v.weight");
        f16.type = kF16, f16.data.clear();
        for (int i = 0; i < 512; ++i) f16.data += half(two);
        auto& b16 = g.tensor("blk.0.ffn_up.weight");
        b16.type = kBF16, b16.data.clear();
        for (int i = 0; i < 2048; ++i) b16.data += bytes_of(to_bf16(-1.5f));
        const auto opened = open(g);
        VERIFY_OK(opened);
        QCOMPARE(values(*opened, "model.layers.0.self_attn.v_proj.weight")[511], 2.f);
        QCOMPARE(values(*opened, "model.layers.0.mlp.up_proj.weight")[2047], -1.5f);
    }

    void rope() {
        GgufBuilder g = tiny_gguf();
        std::vector<float> divisors(8, 1.f);
        divisors[7] = 8;
        g.tensors.push_back({"rope_freqs.weight", {8}, kF32, bytes_of(divisors)});
        auto opened = open(g);
        VERIFY_OK(opened);
        QCOMPARE(opened->config.rope.divisors, divisors);
        QCOMPARE(opened->warnings, std::vector<std::string>{});
        g = tiny_gguf();
        g.str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4);
        QCOMPARE(open(g)->config.rope.factor, 4.0);
        QCOMPARE(open(g)->config.rope.type, std::string("linear"));
        g = tiny_gguf();
        g.f32("llama.rope.scale_linear", 2);
        QCOMPARE(open(g)->config.rope.factor, 2.0);
        g = tiny_gguf();
        g.f32("llama.rope.scaling.factor", 2);  // without a type it is linear
        QCOMPARE(open(g)->config.rope.type, std::string("linear"));
        g.f32("llama.rope.scaling.factor", 0);  // not set
        QCOMPARE(open(g)->config.rope.type, std::string("default"));
        g.str("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 2);
        QCOMPARE(open(g)->config.rope.type, std::string("default"));
    }

    void yarn() {
        GgufBuilder g = tiny_gguf();
        g.str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
        const auto plain = open(g);
        VERIFY_OK(plain);
        const double inferred = 1 + 0.1 * std::log(4.0);
        QCOMPARE(plain->config.rope.type, std::string("yarn"));
        QCOMPARE(plain->config.rope.factor, 4.0);
        QCOMPARE(plain->config.rope.original_max_position, 128);  // the context's length where the file does not say
        QCOMPARE(plain->config.rope.attention_factor, inferred);
        g.u32("llama.rope.scaling.original_context_length", 32).f32("llama.rope.scaling.attn_factor", 1.5f);
        // What llama.cpp writes when it saves a model itself: its defaults.
        g.f32("llama.rope.scaling.yarn_ext_factor", -1).f32("llama.rope.scaling.yarn_attn_factor", 1);
        g.f32("llama.rope.scaling.yarn_beta_fast", 32).f32("llama.rope.scaling.yarn_beta_slow", 1);
        g.f32("llama.rope.scaling.yarn_log_multiplier", 0);
        const auto saved = open(g);
        VERIFY_OK(saved);
        QCOMPARE(saved->config.rope.original_max_position, 32);
        QCOMPARE(saved->config.rope.attention_factor, 1.5 * inferred);
        QCOMPARE(saved->warnings, std::vector<std::string>{});
        g.remove("llama.rope.scaling.yarn_ext_factor");  // of a config.json
        g.f32("llama.rope.scaling.yarn_beta_fast", 16);
        const auto converted = open(g);
        VERIFY_OK(converted);
        QCOMPARE(converted->config.rope.attention_factor, 1.5);
        QCOMPARE(converted->config.rope.beta_fast, 16.0);
        QCOMPARE(converted->warnings.size(), size_t(2));
        VERIFY_CONTAINS(converted->warnings[0], "llama.rope.scaling.yarn_attn_factor is followed");
        VERIFY_CONTAINS(converted->warnings[1], "llama.rope.scaling.yarn_beta_fast is followed");
    }

    void problems_and_warnings() {
        GgufBuilder g = tiny_gguf();
        std::erase_if(g.tensors, [](const auto& t) { return t.name == "blk.0.ffn_up.weight"; });
        g.tensors.push_back({"blk.0.surprise.weight", {1}, kF32, bytes_of(1.f)});
        g.tensor("blk.0.attn_v.weight").ne = {16, 32};
        const auto opened = open(g);
        VERIFY_OK(opened);
        QCOMPARE(opened->problems.size(), size_t(2));
        const std::string all = opened->problems[0] + opened->problems[1];
        VERIFY_CONTAINS(all, "model.layers.0.mlp.up_proj.weight: found no such tensor, expected shape [64, 32]");
        VERIFY_CONTAINS(all, "model.layers.0.self_attn.v_proj.weight: found shape [32, 16], expected [16, 32]");
        QCOMPARE(opened->warnings.size(), size_t(1));
        VERIFY_CONTAINS(opened->warnings[0], "blk.0.surprise.weight");
        Progress progress;
        const auto loaded = load_model(*opened, DType::f32, 1, progress);
        QVERIFY(!loaded);
        VERIFY_CONTAINS(loaded.error().message(), "and 1 more problem");
    }

    void mutations_never_crash() {
        GgufBuilder g = tiny_gguf();
        g.str("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", {"a", "b", "ab"})
            .strings("tokenizer.ggml.merges", {"a b"});
        g.numbers("tokenizer.ggml.token_type", 5, 3, bytes_of(std::vector<int32_t>{1, 1, 1}));
        const std::string good = g.bytes();
        const size_t header_end = good.size() - 38784;
        const std::string fuzzed = dir_.filePath("fuzz.gguf").toStdString();
        std::mt19937 random(13);
        for (int i = 0; i < 4000; ++i) {
            std::string bytes = good;
            for (auto k = 1 + random() % 3; k > 0; --k)
                bytes[random() % header_end] = char(random() % 4 ? random() % 256 : 255);
            if (random() % 5 == 0) bytes.resize(random() % bytes.size());
            put(fuzzed, bytes);
            const auto opened = open_model(fuzzed);
            if (!opened) {
                QVERIFY(!opened.error().message().empty());
                continue;
            }
            if (!opened->problems.empty()) continue;
            Progress progress;
            (void)load_model(*opened, DType::bf16, 1, progress).has_value();
        }
    }

    void the_demo_model() {
        const std::string demo = cache_dir() + "/SmolLM2-135M-Instruct.Q4_1.gguf";
        if (!QFile::exists(QString::fromStdString(demo))) QSKIP("the demo model is not in the cache");
        const auto opened = open_model(demo);
        VERIFY_OK(opened);
        QCOMPARE(opened->problems, std::vector<std::string>{});
        QCOMPARE(opened->config.hidden_size, 576);
        QVERIFY(opened->tokenizer != nullptr);
    }
};

QTEST_GUILESS_MAIN(GgufTest)
#include "gguf_test.moc"
