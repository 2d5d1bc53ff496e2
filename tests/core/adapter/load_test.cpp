#include "tests/core/adapter/peft_fixture.h"

#include "core/adapter/inspect.h"

#include <QDirIterator>
#include <QtTest>

using namespace spartan;
using oracle::Dense;
using oracle::Vec;

namespace {

#define LOAD(adapter, expression)                                                                   \
    const auto adapter##_result = (expression);                                                     \
    QVERIFY2(adapter##_result, adapter##_result ? "" : adapter##_result.error().message().c_str()); \
    const Adapter& adapter = **adapter##_result

Vec add_bias(Vec y, const std::vector<float>& bias) {
    for (size_t n = 0; n < bias.size(); ++n) y[n] += double(bias[n]);
    return y;
}

// Each part of the adapter against `expected(part)`.
template <class F>
double worst_part(const Adapter& adapter, const Model& model, F expected) {
    double worst = 0;
    for (const AdapterPart& part : adapter.parts) {
        const Vec x = test_input(part.in);
        worst = std::max(worst, relative_difference(apply_part(adapter, part, model, x), expected(part, x)));
    }
    return worst;
}

Vec lora_output(PeftFiles& files, const Model& model, const AdapterPart& part, const Vec& x, double scale) {
    const std::string m = module_name(part.layer, part.projection);
    const auto& a = files.at(m + ".lora_A.weight").values;
    const auto& b = files.at(m + ".lora_B.weight").values;
    const Vec inner = oracle::matrix_times(Vec(a.begin(), a.end()), x);
    const Vec low = oracle::matrix_times(Vec(b.begin(), b.end()), inner);
    Vec y = oracle::matrix_times(base_weight(model, part.layer, part.projection), x);
    for (size_t n = 0; n < y.size(); ++n) y[n] += scale * low[n];
    return y;
}

}  // namespace

class LoadTest : public QObject {
    Q_OBJECT
private slots:
    void boft_equals_peft_data() {
        QTest::addColumn<int>("b");
        QTest::addColumn<int>("m");
        QTest::addColumn<bool>("down");  // 40 inputs, else all with 48 or 32
        QTest::addColumn<int>("dtype");
        const int cases[][3] = {{4, 1, 0},  {4, 2, 0}, {4, 3, 0}, {2, 4, 0}, {2, 5, 0}, {8, 2, 0},
                                {16, 1, 0}, {2, 3, 1}, {4, 2, 1}, {5, 1, 1}, {10, 2, 1}};
        for (const auto& c : cases)
            for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
                QTest::addRow("b=%d m=%d %s %s", c[0], c[1], c[2] ? "down" : "all", name_of(dtype))
                    << c[0] << c[1] << bool(c[2]) << int(dtype);
    }
    void boft_equals_peft() {
        QFETCH(int, b);
        QFETCH(int, m);
        QFETCH(bool, down);
        QFETCH(int, dtype);
        const Model model = tiny_model(DType(dtype));
        std::vector<Projection> targets = {Projection::down};
        if (!down) targets = {Projection::q, Projection::k, Projection::o, Projection::gate};
        if (m == 5) targets = {Projection::o};  // groups of 32
        PeftFiles files;
        make_boft(files, b, m, targets);
        LOAD(adapter, files.write_and_load(model));
        QCOMPARE(adapter.parts.size(), 2 * targets.size());
        QVERIFY(adapter.orthogonality_error < 1e-10);
        const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
            const std::string name = module_name(part.layer, part.projection);
            const Dense r = oracle::boft_rotation(files.at(name + ".boft_R").values, m, part.in / b, b);
            Vec y = oracle::matrix_times(base_weight(model, part.layer, part.projection), oracle::row_times(x, r));
            for (size_t n = 0; n < y.size(); ++n) y[n] *= double(files.at(name + ".boft_s").values[n]);
            return add_bias(y, base_bias(model, part.layer, part.projection));
        });
        const double bars[] = {1e-6, 1e-2, 1.25e-3};
        QVERIFY2(worst < bars[dtype], std::to_string(worst).c_str());
        for (const AdapterPart& part : adapter.parts) {
            QCOMPARE(part.group, int64_t(b) << (m - 1));
            QCOMPARE(part.rotation % 64, 0);
            QCOMPARE(part.gain % 64, 0);
        }
    }

    void boft_block_num_mode_and_saved_permutations() {
        const Model model = tiny_model();
        PeftFiles files;
        make_boft(files, 8, 2, {Projection::q});
        const auto plain = files.write_and_load(model);
        QVERIFY(plain);
        files.config["boft_block_size"] = 0;
        files.config["boft_block_num"] = 6;
        files.add(module_name(0, Projection::q) + ".boft_P", {2, 48, 48});
        LOAD(adapter, files.write_and_load(model));
        QVERIFY(adapter.blob == (*plain)->blob);
        QVERIFY(adapter.content_hash != (*plain)->content_hash);
        QCOMPARE(adapter.geometry(), std::string("BOFT b8 m2"));
        QCOMPARE(adapter.targets(), std::string("q"));
    }

    void boft_with_one_factor_where_the_config_says_more() {
        PeftFiles files;
        make_boft(files, 8, 1, {Projection::q});
        files.config["boft_n_butterfly_factor"] = 4;
        LOAD(adapter, files.write_and_load(tiny_model()));
        QCOMPARE(adapter.parts[0].num_factors, 1);
        QCOMPARE(adapter.warnings.size(), 1);
        QVERIFY(adapter.warnings[0].find("4 butterfly factors") != std::string::npos);
    }

    void oft_equals_peft_data() {
        QTest::addColumn<int>("terms");
        QTest::addColumn<bool>("old_series");
        QTest::addColumn<bool>("share");
        QTest::addColumn<bool>("coft");
        for (const bool share : {false, true}) {
            for (const bool coft : {false, true}) {
                for (const bool old_series : {false, true})
                    for (int terms = 1; terms <= 6; ++terms)
                        QTest::addRow("K=%d %s%s%s", terms, old_series ? "0.17" : "0.18", share ? " share" : "",
                                      coft ? " coft" : "")
                            << terms << old_series << share << coft;
                QTest::addRow("exact%s%s", share ? " share" : "", coft ? " coft" : "") << 0 << false << share << coft;
            }
        }
    }
    void oft_equals_peft() {
        QFETCH(int, terms);
        QFETCH(bool, old_series);
        QFETCH(bool, share);
        QFETCH(bool, coft);
        const Model model = tiny_model();
        PeftFiles files;
        make_oft(files, 8, {Projection::q, Projection::o, Projection::down}, share);
        const oracle::OftRules rules{
            .neumann = terms > 0, .old_series = old_series, .coft = coft, .share = share, .terms = terms, .eps = 0.3};
        files.config["coft"] = coft;
        files.config["eps"] = 0.3;
        files.config["use_cayley_neumann"] = rules.neumann;
        files.config["num_cayley_neumann_terms"] = terms;
        if (old_series) files.config.erase("peft_version");
        LOAD(adapter, files.write_and_load(model));
        const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
            const auto& stored = files.at(module_name(part.layer, part.projection) + ".oft_R.weight");
            const Dense r = oracle::oft_rotation(stored.values, stored.shape[0], 8, part.in, rules);
            const Vec y =
                oracle::matrix_times(base_weight(model, part.layer, part.projection), oracle::row_times(x, r));
            return add_bias(y, base_bias(model, part.layer, part.projection));
        });
        QVERIFY2(worst < 1e-6, std::to_string(worst).c_str());
        QCOMPARE(adapter.geometry(), std::string("OFT b8"));
        if (!rules.neumann) QVERIFY(adapter.orthogonality_error < 1e-10);
        if (terms == 1) QVERIFY(!adapter.warnings.empty());  // says that it is the identity
    }

    void oft_flag_turns_the_rotation() {
        const Model model = tiny_model();
        PeftFiles files;
        make_oft(files, 8, {Projection::q});
        const auto exact = files.write_and_load(model);
        files.config["use_cayley_neumann"] = true;
        const auto series = files.write_and_load(model);
        QVERIFY(exact && series);
        const Vec x = test_input(48);
        const Vec a = apply_part(**exact, (*exact)->parts[0], model, x),
                  b = apply_part(**series, (*series)->parts[0], model, x);
        QVERIFY(relative_difference(a, b) > 0.05);
    }

    void oft_far_from_orthogonal_warns_with_the_figure() {
        PeftFiles files;
        make_oft(files, 8, {Projection::q});
        for (auto& [name, tensor] : files.tensors)
            for (float& v : tensor.values) v *= 4;
        files.config["use_cayley_neumann"] = true;
        LOAD(adapter, files.write_and_load(tiny_model()));
        QVERIFY(adapter.orthogonality_error > 1e-2);
        QCOMPARE(adapter.warnings.size(), 1);
        QVERIFY(adapter.warnings[0].find("|RᵀR - I| = ") != std::string::npos);
    }

    void oft_block_size_from_the_tensors() {
        PeftFiles files;
        make_oft(files, 8, {Projection::q});
        files.config["oft_block_size"] = 7;  // does not divide 48: PEFT adjusts and does not say so in the file
        LOAD(adapter, files.write_and_load(tiny_model()));
        QCOMPARE(adapter.parts[0].block_size, 8);
        QCOMPARE(adapter.warnings.size(), 1);
    }

    void lora_scales() {
        const Model model = tiny_model();
        for (const bool rslora : {false, true}) {
            PeftFiles files;
            make_lora(files, 4);
            files.config["use_rslora"] = rslora;
            files.config["alpha_pattern"] = {
                {"layers.1.self_attn.q_proj", 3}, {"mlp\\.(up|down)_proj", 5.5}, {"k_proj", 7}};
            LOAD(adapter, files.write_and_load(model));
            QCOMPARE(adapter.geometry(), std::string("LoRA r4"));
            QCOMPARE(adapter.targets(), std::string("q k v o gate up down"));
            const double divisor = rslora ? 2 : 4;
            for (const AdapterPart& part : adapter.parts) {
                const bool is_q1 = part.projection == Projection::q && part.layer == 1;
                const bool is_mlp = part.projection == Projection::up || part.projection == Projection::down;
                const double alpha = is_q1 ? 3 : is_mlp ? 5.5 : part.projection == Projection::k ? 7 : 16;
                QCOMPARE(double(part.scale), alpha / divisor);
            }
            const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
                return add_bias(lora_output(files, model, part, x, double(part.scale)),
                                base_bias(model, part.layer, part.projection));
            });
            QVERIFY(worst < 1e-6);
        }
    }

    void lora_ranks_by_module() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q, Projection::v});
        files.config["rank_pattern"] = {{"q_proj", 2}};
        for (const int layer : {0, 1}) {
            const std::string q = module_name(layer, Projection::q);
            files.at(q + ".lora_A.weight") = {{2, 48}, normals(96, 1, 5)};
            files.at(q + ".lora_B.weight") = {{32, 2}, normals(64, 1, 6)};
        }
        LOAD(adapter, files.write_and_load(tiny_model()));
        QCOMPARE(adapter.geometry(), std::string("LoRA r2/r4"));
        QCOMPARE(adapter.parts[0].rank, 2);
        QCOMPARE(adapter.parts[0].scale, 8.0f);
        files.config.erase("rank_pattern");
        const auto wrong = files.write_and_load(tiny_model());
        QVERIFY(!wrong);
        QVERIFY(wrong.error().message().find("rank 2, expected 4") != std::string::npos);
    }

    void lora_output_bias() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q, Projection::o});
        files.config["lora_bias"] = true;
        for (const int layer : {0, 1})
            for (const Projection p : {Projection::q, Projection::o})
                files.add(module_name(layer, p) + ".lora_B.bias", {out_features(tiny_config(), p)});
        LOAD(adapter, files.write_and_load(model));
        const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
            Vec y = lora_output(files, model, part, x, 4);
            const auto& extra = files.at(module_name(part.layer, part.projection) + ".lora_B.bias").values;
            for (size_t n = 0; n < y.size(); ++n) y[n] += 4 * double(extra[n]);
            return add_bias(y, base_bias(model, part.layer, part.projection));
        });
        QVERIFY(worst < 1e-6);
    }

    void replacement_biases() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.config["bias"] = "all";
        for (const int layer : {0, 1}) {
            files.add(module_name(layer, Projection::q) + ".base_layer.bias", {32});
            files.add(module_name(layer, Projection::v) + ".bias", {16});  // not adapted, its bias trained all the same
        }
        LOAD(adapter, files.write_and_load(model));
        QCOMPARE(adapter.parts.size(), 4);
        QCOMPARE(adapter.geometry(), std::string("LoRA r4"));
        const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
            const std::string name = module_name(part.layer, part.projection);
            if (part.projection == Projection::v)
                return add_bias(oracle::matrix_times(base_weight(model, part.layer, part.projection), x),
                                files.at(name + ".bias").values);
            return add_bias(lora_output(files, model, part, x, 4), files.at(name + ".base_layer.bias").values);
        });
        QVERIFY(worst < 1e-6);
    }

    // Values that the base's dtype cannot hold are refused by their name.
    void refuses_what_f16_cannot_hold() {
        PeftFiles files;
        make_lora(files, 6);
        const std::string name = module_name(1, Projection::k) + ".lora_B.weight";
        files.at(name).values[5] = 65520;
        QVERIFY(files.write_and_load(tiny_model()));
        QVERIFY(files.write_and_load(tiny_model(DType::bf16)));
        const auto refused = files.write_and_load(tiny_model(DType::f16));
        QVERIFY(!refused);
        const std::string message = refused.error().message();
        QVERIFY2(message.find(name + "[5]: found 65520, expected a value that f16 can hold") != std::string::npos,
                 message.c_str());
    }

    // Neumann's series goes anywhere; up to 1e30 off it is served, where the type has room for it.
    void refuses_rotations_that_f16_cannot_hold() {
        PeftFiles files;
        make_oft(files, 8, {Projection::q});
        for (auto& [name, tensor] : files.tensors)
            for (float& v : tensor.values) v *= 100;
        files.config["use_cayley_neumann"] = true;
        QVERIFY(files.write_and_load(tiny_model()));
        QVERIFY(files.write_and_load(tiny_model(DType::bf16)));
        for (const AdapterForm form : {AdapterForm::folded, AdapterForm::factored}) {
            Progress progress;
            const auto refused = load_adapter("a", files.dir(), tiny_model(DType::f16), progress, form);
            QVERIFY(!refused);
            const std::string message = refused.error().message();
            for (const std::string& words : {std::string("adapter_model.safetensors: "),
                                             module_name(0, Projection::q) + ": found a rotation with an entry of ",
                                             std::string(", expected entries that f16 can hold")})
                QVERIFY2(message.find(words) != std::string::npos, message.c_str());
            QVERIFY(message.find("inf") == std::string::npos);
        }
    }

    void dora_equals_peft() {
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
            const Model model = tiny_model(dtype);
            PeftFiles files;
            make_lora(files, 6);
            files.config["use_dora"] = true;
            for (const int layer : {0, 1})
                for (const Projection p : kAll)
                    files.add(module_name(layer, p) + ".lora_magnitude_vector" + (layer ? ".weight" : ""),
                              {out_features(tiny_config(), p)}, 0.3, 1.5);
            LOAD(adapter, files.write_and_load(model));
            QVERIFY(adapter.kind == AdapterKind::dora);
            QCOMPARE(adapter.geometry(), std::string("DoRA r6"));
            const double worst = worst_part(adapter, model, [&](const AdapterPart& part, const Vec& x) {
                const std::string name = module_name(part.layer, part.projection);
                const double scale = 16.0 / 6;
                Vec y = lora_output(files, model, part, x, scale);
                const Vec w = base_weight(model, part.layer, part.projection);
                const auto& a = files.at(name + ".lora_A.weight").values;
                const auto& b = files.at(name + ".lora_B.weight").values;
                const auto& magnitude =
                    files.at(name + ".lora_magnitude_vector" + (part.layer ? ".weight" : "")).values;
                for (size_t n = 0; n < y.size(); ++n) {
                    double sum = 0;
                    for (size_t k = 0; k < x.size(); ++k) {
                        double v = w[n * x.size() + k];
                        for (size_t r = 0; r < 6; ++r) v += scale * double(b[n * 6 + r]) * double(a[r * x.size() + k]);
                        sum += v * v;
                    }
                    y[n] *= double(magnitude[n]) / std::sqrt(sum);
                }
                return add_bias(y, base_bias(model, part.layer, part.projection));
            });
            QVERIFY2(worst < (dtype == DType::f32 ? 1e-6 : 1e-2), std::to_string(worst).c_str());
        }
    }

    void names_that_peft_tolerates() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        const auto plain = files.write_and_load(model);
        QVERIFY(plain);
        for (const char* how : {"no prefix", "compiled", "named"}) {
            PeftFiles other;
            make_lora(other, 4, {Projection::q});
            const std::string style = how;
            if (style == "no prefix") other.prefix = "";
            if (style == "compiled") other.prefix = "base_model.model._orig_mod.";
            for (auto& [name, tensor] : other.tensors)
                if (style == "named") name.replace(name.rfind(".weight"), 0, ".default");
            LOAD(adapter, other.write_and_load(model));
            QVERIFY(adapter.blob == (*plain)->blob);
        }
    }

    // Embeddings that PEFT saved although nothing changed them have no effect; changed ones replace the base's, and a
    // tied head's with them unless modules_to_save lists the embedding alone.
    void copies_of_embeddings() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.add("model.embed_tokens.weight", {50, 48}).values = normals(50 * 48, 1, 7);
        LOAD(adapter, files.write_and_load(model));
        QCOMPARE(adapter.warnings.size(), 1);
        QVERIFY(!adapter.embedding && !adapter.head);
        files.at("model.embed_tokens.weight").values[100] += 0.5f;
        const auto changed = files.write_and_load(model);
        QVERIFY(changed && (*changed)->embedding && (*changed)->head);
        QCOMPARE((*changed)->head->copy, (*changed)->embedding->copy);
        QVERIFY((*changed)->warnings.back().find("embed_tokens") != std::string::npos);
        files.config["modules_to_save"] = {"embed_tokens"};
        const auto listed = files.write_and_load(model);
        QVERIFY(listed && (*listed)->embedding && !(*listed)->head);
    }

    // ensure_weight_tying, as PEFT 0.21 saves it and without the head's second copy.
    void tied_tables() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.config["ensure_weight_tying"] = true;
        files.config["modules_to_save"] = {"embed_tokens", "model.embed_tokens"};
        const auto copy = files.add("model.embed_tokens.weight", {50, 48});
        LOAD(once, files.write_and_load(model));
        QVERIFY(once.embedding->copy >= 0 && once.head->copy == once.embedding->copy);
        files.tensors.emplace_back("lm_head.weight", copy);
        LOAD(twice, files.write_and_load(model));
        QVERIFY(twice.head->copy == twice.embedding->copy && twice.blob == once.blob);
        QCOMPARE(twice.warnings, once.warnings);
        files.config["ensure_weight_tying"] = false;  // then the head keeps its own
        LOAD(untied, files.write_and_load(model));
        QVERIFY(untied.head->copy >= 0 && untied.head->copy != untied.embedding->copy);
    }

    // Trained apart, as PEFT does on a base in bf16: served as the file has it, and said.
    void tied_lora_that_is_not() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.config["ensure_weight_tying"] = true;
        files.config["target_modules"] = {"q_proj", "embed_tokens"};
        files.add("model.embed_tokens.lora_embedding_A", {4, 50});
        files.add("model.embed_tokens.lora_embedding_B", {48, 4});
        files.add("lm_head.lora_A.weight", {4, 48});
        files.add("lm_head.lora_B.weight", {50, 4});
        LOAD(adapter, files.write_and_load(tiny_model()));
        QVERIFY(adapter.embedding->part.a >= 0 && adapter.head->part.a >= 0);
        QVERIFY(std::any_of(adapter.warnings.begin(), adapter.warnings.end(),
                            [](const std::string& w) { return w.find("ensure_weight_tying") != std::string::npos; }));
    }

    // The same tokens of embedding and head: one set of rows in the file, for a head that is tied.
    void shared_tokens() {
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.config["trainable_token_indices"] = {{"embed_tokens", {7, 3}}, {"lm_head", {7, 3}}};
        files.add("model.embed_tokens.token_adapter.trainable_tokens_delta", {2, 48});
        LOAD(adapter, files.write_and_load(tiny_model()));
        QVERIFY(adapter.head->token_rows == adapter.embedding->token_rows && adapter.head->token_rows >= 0);
        Model untied = tiny_model();
        untied.info.config.tied_embeddings = false;
        auto& weights = std::get<Weights<float>>(untied.weights);
        weights.head = PackedMatrix<float>(50, 48);
        weights.head.set_rows(0, 50, normals(50 * 48, 1, 8).data());
        const auto refused = files.load(untied);
        QVERIFY(!refused);
        const std::string message = refused.error().message();
        QVERIFY2(message.find("trainable_token_indices") != std::string::npos &&
                     message.find("\"lm_head\" without rows") != std::string::npos,
                 message.c_str());
    }

    void zero_adapters_change_nothing() {
        const Model model = tiny_model();
        PeftFiles boft, oft, lora;
        make_boft(boft, 8, 2, {Projection::q});
        make_oft(oft, 8, {Projection::q});
        oft.config["use_cayley_neumann"] = true;
        make_lora(lora, 4, {Projection::q});
        for (PeftFiles* files : {&boft, &oft, &lora}) {
            for (auto& [name, tensor] : files->tensors) {
                const bool is_scale = name.find("boft_s") != std::string::npos;
                if (name.find("lora_A") == std::string::npos)
                    std::fill(tensor.values.begin(), tensor.values.end(), is_scale ? 1.f : 0.f);
            }
            LOAD(adapter, files->write_and_load(model));
            const AdapterPart& part = adapter.parts[0];
            const Vec x = test_input(48);
            QCOMPARE(apply_part(adapter, part, model, x),
                     add_bias(oracle::matrix_times(base_weight(model, 0, Projection::q), x),
                              base_bias(model, 0, Projection::q)));
        }
    }

    void identity_is_the_content() {
        const Model model = tiny_model();
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        const auto first = files.write_and_load(model);
        const auto again = files.load(model, "other-name");
        QVERIFY(first && again);
        QCOMPARE((*first)->content_hash, (*again)->content_hash);
        const auto config = read_text_file(files.config_path()), tensors = read_text_file(files.tensors_path());
        QVERIFY(config && tensors);
        QCOMPARE((*first)->content_hash, sha256_hex(*config + *tensors));
        QCOMPARE((*first)->file_bytes, int64_t(config->size() + tensors->size()));
        files.tensors[0].second.values[0] += 1;
        const auto changed = files.write_and_load(model);
        QVERIFY(changed);
        QVERIFY((*changed)->content_hash != (*first)->content_hash);
    }

    void cancelling() {
        PeftFiles files;
        make_boft(files, 4, 2);
        files.write();
        Progress progress;
        progress.cancel = true;
        const auto stopped = load_adapter("a", files.dir(), tiny_model(), progress);
        QVERIFY(!stopped);
        QVERIFY(stopped.error().cancelled);
    }

    void progress_ends_at_its_total() {
        PeftFiles files;
        make_boft(files, 4, 2);
        files.write();
        Progress progress;
        QVERIFY(load_adapter("a", files.dir(), tiny_model(), progress));
        QVERIFY(progress.total > 0);
        QVERIFY(progress.done <= progress.total);
        QVERIFY(double(progress.done) > 0.8 * double(progress.total));
    }

    void base_name_warns_and_does_not_refuse() {
        const Model model = tiny_model();
        const std::pair<const char*, size_t> cases[] = {{"someone/TINY", 0}, {"tiny/", 0}, {"org/other", 1}, {"", 0}};
        for (const auto& [name, warnings] : cases) {
            PeftFiles files;
            make_lora(files, 4, {Projection::q});
            files.config["base_model_name_or_path"] = name;
            LOAD(adapter, files.write_and_load(model));
            QCOMPARE(adapter.warnings.size(), warnings);
            if (warnings > 0)
                QCOMPARE(adapter.warnings[0], std::string("trained for org/other, loaded on tiny; the shapes fit"));
        }
        PeftFiles files;
        make_lora(files, 4, {Projection::q});
        files.config["base_model_name_or_path"] = nullptr;
        LOAD(adapter, files.write_and_load(model));
        QVERIFY(adapter.warnings.empty());
    }

    // Every adapter of the oracle cases, on its own base.
    void golden_adapters() {
        int count = 0;
        for (const char* family : {"llama-mha", "llama-gqa-tied", "qwen2"}) {
            const std::string root = std::string(TESTS_DIR) + "/golden/" + family;
            auto opened = open_model(root + "/model");
            QVERIFY2(opened, opened ? "" : opened.error().message().c_str());
            for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
                Progress progress;
                auto copy = open_model(root + "/model");
                QVERIFY(copy);
                const auto model = load_model(std::move(*copy), dtype, 2, progress);
                QVERIFY2(model, model ? "" : model.error().message().c_str());
                QDirIterator folders(QString::fromStdString(root + "/adapters"), QDir::Dirs | QDir::NoDotAndDotDot);
                while (folders.hasNext()) {
                    const std::string dir = folders.next().toStdString();
                    Progress loading;
                    LOAD(adapter, load_adapter("a", dir, **model, loading));
                    QVERIFY(!adapter.parts.empty());
                    if (adapter.kind != AdapterKind::oft) QVERIFY(adapter.orthogonality_error < 1e-10);
                    const auto info = inspect_adapter(dir);
                    QVERIFY(info);
                    QVERIFY(info->problems.empty());
                    QCOMPARE(info->modules.size(), adapter.parts.size());
                    ++count;
                }
            }
        }
        QCOMPARE(count, 33);
    }

    void inspected_json() {
        PeftFiles files;
        make_boft(files, 8, 2, {Projection::q});
        files.write();
        const auto info = inspect_adapter(files.dir());
        QVERIFY(info);
        const Json json = inspect_adapter_json(*info);
        QCOMPARE(json["type"], Json("adapter"));
        QCOMPARE(json["kind"], Json("boft"));
        QCOMPARE(json["modules"].size(), size_t(2));
        const Json expected = {
            {"name", "model.layers.0.self_attn.q_proj"}, {"b", 8}, {"m", 2}, {"r", nullptr}, {"in", 48}, {"out", 32}};
        QCOMPARE(json["modules"][0], expected);
        QVERIFY(json["problems"].empty() && json["warnings"].empty());
        QVERIFY(json["bytes"].get<int64_t>() > 0);

        files.config["modules_to_save"] = {"lm_head"};
        files.write();
        const auto refused = inspect_adapter(files.dir());
        QVERIFY(refused);
        QCOMPARE(refused->problems.size(), 1);
        QVERIFY(refused->problems[0].find("modules_to_save") != std::string::npos);
        QCOMPARE(refused->modules.size(), 2);
    }
};

QTEST_GUILESS_MAIN(LoadTest)
#include "load_test.moc"
